"""What runs and probes write and print of shards behind a password and a signature."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import ROOT, run
from tests.support.runs import losses, pretrain
from tests.support.servers import Handler, Server, serve

pytestmark = [pytest.mark.dist, pytest.mark.slow]
PASSWORD = "hunter2secret"
SIGNATURES = ("5ign%2Fature-of-today", "5ign%2Fature-of-tomorrow")
SHARDS = "train-{000000..000001}.tar.gz"


@pytest.fixture
def server() -> Iterator[Server]:
    """Let those in who have the password and a signature, which are good for GET alone."""
    basic = base64.b64encode(f"me:{PASSWORD}".encode()).decode()

    def allows(request: Handler) -> bool:
        signed = any(request.path.endswith(f"?sig={signature}") for signature in SIGNATURES)
        known = request.headers.get("Authorization") == f"Basic {basic}"
        return known and signed and request.command == "GET"

    with serve(ROOT / "data/demo") as running:
        running.allows = allows
        yield running


def secrets_in(folder: Path) -> list[str]:
    """The files below a folder whose bytes or names have a secret."""
    words = (PASSWORD, "5ign")
    return [
        str(path)
        for path in folder.rglob("*")
        if any(word in str(path) for word in words)
        or (path.is_file() and any(word.encode() in path.read_bytes() for word in words))
    ]


def test_no_secret_is_written_or_printed_and_a_new_signature_goes_on(
    server: Server, tmp_path: Path
) -> None:
    host = server.url.removeprefix("http://")
    folder = tmp_path / "run"
    cache = ("--data.source.cache", str(tmp_path / "cache"), "--data.workers", "0")

    def address(signature: str) -> str:
        return f"http://me:{PASSWORD}@{host}/{SHARDS}?sig={signature}"

    said = ""
    for steps, signature in zip(("2", "4"), SIGNATURES, strict=True):
        done = pretrain(
            folder,
            *("--data.train", address(signature), *cache, "--optim.steps", steps),
            *("--run.trackers", "tensorboard"),
        )
        said += done.stdout + done.stderr
        assert done.returncode == 0, done.stderr
    assert len(losses(folder)) == 4
    assert "http://me:***@" in (folder / "config.yaml").read_text()
    assert len(server.gets) == 2 * 3  # a size at each start, and one fetch

    table = tmp_path / "table.parquet"
    url = address(SIGNATURES[0])
    shard = url.replace("{000000..000001}", "000000")
    embedded = run("-m", "finetune.embed", url, table, "--weights", folder, *cache)
    missing = run("-m", "finetune.embed", f"{shard}1", table, "--weights", folder, *cache)
    found = run("-m", "finetune.lookup", "neighbours", table, "--key", "none", "--url", shard)
    for done in (embedded, missing, found):
        said += done.stdout + done.stderr
    assert embedded.returncode == 0, embedded.stderr
    assert missing.returncode == 1
    assert "403: Forbidden" in missing.stderr
    assert PASSWORD not in said
    assert "5ign" not in said
    assert secrets_in(tmp_path) == []
