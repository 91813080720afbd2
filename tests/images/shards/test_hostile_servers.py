"""Servers that fail, lie, drip and never end: every request is tried again, or ends in one line."""

import gzip
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from data.config import SourceConfig
from data.shards import reading, sources
from data.shards.index import INDEX, Shard
from data.shards.reading import open_shards, read_sample
from data.shards.writing import write_shards
from tests.support.images import png
from tests.support.servers import Handler, Server, raw, serve, status

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
NAME = "train-000000.tar"
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def local(tmp_path: Path) -> Shard:
    samples = ({"__key__": f"s{i}", "png": png(i), "cls": i} for i in range(8))
    return write_shards(samples, tmp_path / "served", "train", 8)[0]


@pytest.fixture
def server(local: Shard) -> Iterator[Server]:
    with serve(Path(local.url).parent) as running:
        yield running


@pytest.fixture
def source(tmp_path: Path) -> SourceConfig:
    return SourceConfig(cache=tmp_path / "cache", backoff=0.01, timeout=0.5, attempts=3)


def dripping_headers(handler: Handler) -> None:
    """Send a header each 0.1 s, and never the last one."""
    handler.wfile.write(OK)
    raw(b"X: a\r\n", 40, 0.1)(handler)


def open_one(server: Server, source: SourceConfig) -> Shard:
    return open_shards(f"{server.url}/{NAME}", source=source)[0]


@pytest.mark.parametrize("name", [INDEX, NAME])
@pytest.mark.parametrize(
    "fault",
    [
        status(503),
        status(500),
        status(429),
        status(408),
        status(502, b"<html>bad gateway</html>"),
        raw(b""),
        raw(b"\x00\xff garbage\r\n\r\n"),
        raw(OK + b"X: " + b"a" * 2**20 + b"\r\n\r\n"),
        raw(OK + b"Content-Length: -5\r\n\r\n"),
    ],
    ids=["503", "500", "429", "408", "502", "drop", "garbage", "bomb", "negative"],
)
def test_the_size_and_the_index_are_asked_for_again(
    local: Shard, server: Server, source: SourceConfig, name: str, fault: Callable[[Handler], None]
) -> None:
    server.scripts[name] = [fault, fault]
    shard = open_one(server, replace(source, attempts=4))
    assert not server.scripts[name]
    assert shard == replace(local, url=f"{server.url}/{NAME}")


@pytest.mark.parametrize("name", [INDEX, NAME])
@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (
            401,
            PermissionError,
            r"\(401: Unauthorized\): you have no right to it: check the URL, and",
        ),
        (
            403,
            PermissionError,
            r"\(403: Forbidden\): you have no right to it: check the URL, and the",
        ),
        (404, FileNotFoundError, r"train-000000\.tar does not exist"),
        (410, FileNotFoundError, r"train-000000\.tar does not exist"),
    ],
)
def test_four_answers_are_final(
    server: Server,
    source: SourceConfig,
    name: str,
    code: int,
    kind: type[Exception],
    words: str,
) -> None:
    server.scripts[name] = [status(code)] * 9
    if name == INDEX and kind is FileNotFoundError:  # a folder without an index
        assert open_one(server, source).samples == 8
    else:
        with pytest.raises(kind, match=words):
            open_one(server, source)
    assert len(server.scripts[name]) == (8 if name == INDEX else 7)  # HEAD and GET


def test_a_pause_that_the_server_asks_for_is_kept(server: Server, source: SourceConfig) -> None:
    server.scripts[INDEX] = [status(503, Retry_After="1")]
    began = time.monotonic()
    open_one(server, source)
    assert time.monotonic() - began > 1


@pytest.mark.slow
@pytest.mark.parametrize("read", ["shard", "range"])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (dripping_headers, "no answer came within 0.5 s"),
        (raw(OK + b"Content-Length: 99999\r\n\r\n"), "."),
        (status(200, b"a" * 700), "parts of files|sends 700 bytes instead of"),
        (status(206, b"a" * 700), "206|other bytes than"),
        (status(206, b"a", Content_Range="bytes 512-512/10000"), "206|other bytes than"),
        (status(302, Location="file:///etc/hostname"), "file"),
        (status(302, Location="ftp://127.0.0.1/x"), "ftp"),
        (status(302, Location=f"/{NAME}"), "TooManyRedirects"),
        (status(200, gzip.compress(bytes(9999)), Content_Encoding="gzip"), "gzip|parts of files"),
        (status(204), "204|parts"),
        (status(416), "416"),
    ],
    ids=["headers", "long", "200", "206", "elsewhere", "file", "ftp", "loop", "gzip", "204", "416"],
)
def test_no_answer_is_believed_or_waited_for(
    server: Server,
    source: SourceConfig,
    read: str,
    fault: Callable[[Handler], None],
    words: str,
) -> None:
    source = replace(source, read=read, attempts=2)
    shard = open_one(server, source)
    server.scripts[NAME] = [fault] * 40
    began = time.monotonic()
    with pytest.raises(OSError, match=rf"{NAME} could not be read in 2 attempts \(.*({words})"):
        read_sample(shard, 0, source)
    assert time.monotonic() - began < 3


def drip(handler: Handler) -> None:
    """Answer with two bytes each 0.1 s, which come to 2 kB in more than a minute."""
    handler.send_response(206 if "Range" in handler.headers else 200)
    handler.send_header("Content-Length", "2048")
    handler.send_header("Content-Range", "bytes 0-2047/99999")
    handler.end_headers()
    raw(b"ab", 600, 0.1)(handler)


def test_a_body_that_drips_is_given_up(server: Server, source: SourceConfig) -> None:
    server.scripts[NAME] = [drip] * 2
    began = time.monotonic()
    with pytest.raises(OSError, match=r"bytes in \d+ s are slower than data\.source\.min_speed"):
        sources.read_range(f"{server.url}/{NAME}", 0, 2048, replace(source, attempts=2))
    assert time.monotonic() - began < 5


def test_an_answer_ends_at_the_total_timeout(server: Server, source: SourceConfig) -> None:
    server.scripts[NAME] = [drip]
    patient = replace(source, attempts=1, min_speed=0.001, total_timeout=1.0)
    with pytest.raises(OSError, match=r"longer than data\.source\.total_timeout=1"):
        sources.read_range(f"{server.url}/{NAME}", 0, 2048, patient)


@pytest.mark.parametrize(
    "answer",
    [
        raw(OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + b" " * 2**16 + b"\r\n"),
        status(200, gzip.compress(bytes(2**26)), Content_Encoding="gzip"),
        status(200, bytes(2**21)),
    ],
    ids=["endless", "bomb", "large"],
)
def test_an_index_without_end_ends_at_a_stated_size(
    server: Server,
    source: SourceConfig,
    answer: Callable[[Handler], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "MOST_BYTES", 60_000)
    server.scripts[INDEX] = [answer]
    with pytest.raises(ValueError, match=r"index\.json: it has more than 60000 bytes"):
        open_one(server, source)


def test_an_index_that_comes_compressed_is_read(
    local: Shard, server: Server, source: SourceConfig
) -> None:
    packed = gzip.compress((server.folder / INDEX).read_bytes())
    server.scripts[INDEX] = [status(200, packed, Content_Encoding="gzip")]
    assert open_one(server, source).offsets == local.offsets


def test_a_page_to_sign_in_is_no_shard(server: Server, source: SourceConfig) -> None:
    page = status(200, b"<html><body>Sign in</body></html>", Content_Type="text/html")
    server.scripts[NAME] = [page] * 3
    with pytest.raises(ValueError, match=r"has 33 bytes, index\.json says"):
        open_one(server, source)
    (server.folder / INDEX).unlink()
    server.scripts[NAME] = [page] * 3
    with pytest.raises(ValueError, match="a page of HTML"):
        open_one(server, source)


@pytest.mark.parametrize(
    ("length", "words"), [("1000000000000000", "holds less"), ("0", "not tell|0 bytes|empty")]
)
def test_a_size_that_cannot_be_is_refused(
    server: Server, source: SourceConfig, length: str, words: str
) -> None:
    (server.folder / INDEX).unlink()
    server.scripts[NAME] = [status(200, Content_Length=length)] * 20
    with pytest.raises((ValueError, OSError), match=words):
        open_one(server, replace(source, attempts=2))


def test_a_file_that_changes_between_its_reads_is_named(
    server: Server, source: SourceConfig
) -> None:
    source = replace(source, read="range", attempts=2)
    shard = open_one(server, source)
    read_sample(shard, 0, source)
    path = server.folder / NAME
    path.write_bytes(path.read_bytes())
    os.utime(path, (1, 1))
    with pytest.raises(OSError, match=r"the file was replaced: its version was"):
        read_sample(shard, 0, source)
