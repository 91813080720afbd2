"""Weights from the hub: fetched from a real server once, then from the cache, licence and all."""

import json
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from fcmae.weights.fetching import hub_name
from fcmae.weights.files import read_weights
from fcmae.weights.safetensors_files import read_metadata
from tests.support.programs import lines_of, run

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """What a client of the hub asks for: the files of a repository, and each of them."""

    folder: Path
    busy: list[int]  # statuses of the next answers

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.wfile.write(self.answer())

    def answer(self) -> bytes:
        """Send the head of an answer, and return its body."""
        path = self.path.partition("?")[0]
        name = path.rpartition("/")[2]
        repo = self.folder / "/".join(path.removeprefix("/api/models").split("/")[1:3])
        if self.busy:
            body, status = b"{}", self.busy.pop(0)
        elif not repo.is_dir():
            body, status = b'{"error": "Repository not found"}', 404
        elif "/tree/" in path:
            files = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": file.name}
                for file in sorted(repo.iterdir())
            ]
            body, status = json.dumps(files).encode(), 200
        elif path.startswith("/api/"):
            files = [{"rfilename": file.name} for file in sorted(repo.iterdir())]
            about = {"id": repo.name, "sha": COMMIT, "siblings": files, "private": False}
            body, status = json.dumps(about).encode(), 200
        else:
            body, status = (repo / name).read_bytes(), 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{name}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        return body


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The address of a hub that serves `tmp_path/served/ORG/NAME/FILE`."""
    handler = type("Served", (Hub,), {"folder": tmp_path / "served", "busy": [503, 429]})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


# the hub's client reads the environment when it is imported, and timm takes its functions
ANEW = """
import runpy, sys
for name in [*sys.modules]:
    if name.partition(".")[0] in ("huggingface_hub", "timm"):
        del sys.modules[name]
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def alone(module: str, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program whose client of the hub is of this environment."""
    return run("-c", ANEW, module, *words, env=env)


@pytest.mark.slow
def test_weights_of_timm_are_fetched_once_and_their_licence_is_said(
    tmp_path: Path, hub: str
) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model("convnextv2_atto.fcmae")
    timm.models.save_for_hf(
        model, str(tmp_path / "served/timm/convnextv2_atto.fcmae"), safe_serialization=True
    )
    cache, out = str(tmp_path / "cache"), tmp_path / "out.safetensors"
    source = "timm:convnextv2_atto.fcmae"
    done = alone("fcmae.convert", source, out, HF_HOME=cache, HF_ENDPOINT=hub)
    assert done.returncode == 0, done.stderr
    assert f"; {source} is timm/convnextv2_atto.fcmae, licence cc-by-nc-4.0;" in done.stdout
    found = load_file(out)
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())
    assert read_metadata(out).image_size == (224, 224)
    again = tmp_path / "again.safetensors"
    source = "hf:timm/convnextv2_atto.fcmae"
    done = alone("fcmae.convert", source, again, HF_HOME=cache, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    found = load_file(again)
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("offline", "reason"),
    [
        ("1", "Cannot find an appropriate cached snap"),
        pytest.param("0", "404 Client", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_fetched_is_one_line_with_the_way_out(
    tmp_path: Path, hub: str, offline: str, reason: str
) -> None:
    there = {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": offline}
    done = alone("fcmae.convert", "hf:me/mine", tmp_path / "out.safetensors", **there)
    (line,) = lines_of(done.stderr)
    assert line.startswith(f"error: hf:me/mine can neither be fetched ({reason}")
    assert "nor is it in the cache: run hf download me/mine where there is a network" in line


def test_names_that_timm_does_not_have_are_refused() -> None:
    assert hub_name("timm:convnextv2_atto") == "timm/convnextv2_atto.fcmae_ft_in1k"
    with pytest.raises(ValueError, match=r"no weights of a ConvNeXt of this name; did you mean .*"):
        hub_name("timm:convnextv2_atto.fcmea")
    with pytest.raises(ValueError, match=r"timm has no weights of a ConvNeXt of this name"):
        read_weights("timm:resnet18")
    with pytest.raises(ValueError, match=r"hf:a/b/c must be hf:ORG/NAME: "):
        read_weights("hf:a/b/c")
