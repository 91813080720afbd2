"""Credentials of web servers: in a URL, in its query, in a file; none of them names a shard."""

import base64
import re
from dataclasses import replace
from pathlib import Path

import pytest

from data.config import SourceConfig
from data.shards.index import INDEX, Shard
from data.shards.reading import open_shards, read_sample
from data.shards.writing import write_shards
from tests.support.images import png
from tests.support.servers import Handler, Server

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
SHARDS = "train-{000000..000001}.tar"
BASIC = f"Basic {base64.b64encode(b'me:pass/word').decode()}"


@pytest.fixture
def local(tmp_path: Path) -> list[Shard]:
    samples = ({"__key__": f"s{i}", "png": png(i), "cls": i} for i in range(8))
    return write_shards(samples, tmp_path / "served", "train", 4)


@pytest.fixture
def source(tmp_path: Path) -> SourceConfig:
    return SourceConfig(cache=tmp_path / "cache", backoff=0.01, timeout=5.0, attempts=2)


def knows_password(request: Handler) -> bool:
    return request.headers.get("Authorization") == BASIC


def signed(request: Handler) -> bool:
    """A signature is its exact text, is good for GET alone, and not for the index."""
    exact = re.search(r"\?sig=(old|new)%2Fx%3D&e=1$", request.path)
    return bool(exact) and request.command == "GET" and INDEX not in request.path


@pytest.mark.parametrize("read", ["shard", "range"])
@pytest.mark.parametrize("where", ["url", "netrc"])
def test_a_password_is_sent_and_not_shown(
    local: list[Shard],
    server: Server,
    source: SourceConfig,
    read: str,
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = replace(source, read=read)
    server.allows = knows_password
    with pytest.raises(PermissionError, match="403: Forbidden"):
        open_shards(f"{server.url}/{SHARDS}", source=source)
    url = server.url
    if where == "url":
        url = url.replace("//", "//me:pass%2Fword@")
    else:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login me password pass/word\n")
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))
    shards = open_shards(f"{url}/{SHARDS}", source=source)
    assert read_sample(shards[1], 0, source) == read_sample(local[1], 0)
    assert "pass" not in repr(shards) + str([shard.url for shard in shards])


@pytest.mark.parametrize("read", ["shard", "range"])
def test_a_signature_opens_shards_and_a_new_one_fetches_nothing_again(
    local: list[Shard], server: Server, source: SourceConfig, read: str
) -> None:
    source = replace(source, read=read)
    server.allows = signed
    shards = [
        open_shards(f"{server.url}/{SHARDS}?sig={age}%2Fx%3D&e=1", source=source)
        for age in ("old", "new")
    ]
    assert shards[0] == shards[1]
    assert [shard.name for shard in shards[1]] == [shard.name for shard in local]
    assert [shard.sha256 for shard in shards[1]] == [shard.sha256 for shard in local]
    whole = [get for get in server.gets if get[2] > 1]
    assert len(whole) == 2  # scanned by the first start, since the index was refused
    assert read_sample(shards[1][1], 0, source) == read_sample(local[1], 0)


def test_a_password_that_cuts_off_its_url_is_refused_and_not_shown(source: SourceConfig) -> None:
    with pytest.raises(ValueError, match="a port that is no number: if that is a part of") as error:
        open_shards("http://me:pass/word@127.0.0.1/train-000000.tar", source=source)
    assert "word@" not in str(error.value)
