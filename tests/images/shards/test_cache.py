"""The cache of fetched shards: damage is found and mended, and its bound holds at all times."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from data.config import SourceConfig
from data.shards.index import INDEX, Shard
from data.shards.reading import open_shards, read_sample
from data.shards.writing import write_shards
from tests.support.images import png
from tests.support.programs import start
from tests.support.servers import Server

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
SHARDS = "train-{000000..000005}.tar"


@pytest.fixture
def local(tmp_path: Path) -> list[Shard]:
    samples = ({"__key__": f"s{i}", "png": png(i), "cls": i} for i in range(24))
    return write_shards(samples, tmp_path / "served", "train", 4)


@pytest.fixture
def source(tmp_path: Path) -> SourceConfig:
    return SourceConfig(cache=tmp_path / "cache", backoff=0.01, timeout=5.0, attempts=3)


def copies(source: SourceConfig) -> list[Path]:
    return list((source.cache / "shards").glob("*.tar"))


def flip(path: Path, place: int) -> None:
    """Change one bit, and leave the size and the date of the file as they were."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("place", [600, 3], ids=["a pixel", "a header"])
@pytest.mark.parametrize("indexed", [True, False])
def test_a_damaged_copy_is_fetched_again(
    local: list[Shard],
    server: Server,
    source: SourceConfig,
    place: int,
    indexed: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not indexed:
        (server.folder / INDEX).unlink()
    (shard,) = open_shards(f"{server.url}/train-000001.tar", source=source)
    whole = read_sample(shard, 0, source)
    (copy,) = copies(source)
    flip(copy, place)
    (again,) = open_shards(f"{server.url}/train-000001.tar", source=source)
    assert read_sample(again, 0, source) == whole == read_sample(local[1], 0)
    assert len(server.gets) == 2
    assert "in the cache" in capsys.readouterr().err
    assert copy.read_bytes() == Path(local[1].url).read_bytes()


READER = """
import sys
from pathlib import Path
from data.shards.reading import open_shards, read_sample
from data.config import SourceConfig
source = SourceConfig(cache=Path(sys.argv[2]), cache_gb=float(sys.argv[3]), backoff=0.01)
for shard in open_shards(sys.argv[1], source=source):
    for i in range(shard.samples):
        print(read_sample(shard, i, source)["__key__"])
"""


def read(server: Server, source: SourceConfig) -> list[str]:
    reader = start("-c", READER, f"{server.url}/train-000001.tar", source.cache, source.cache_gb)
    return reader.communicate()[0].splitlines()


@pytest.mark.dist
def test_a_bit_that_flips_between_two_starts_is_found(server: Server, source: SourceConfig) -> None:
    keys = read(server, source)
    (copy,) = copies(source)
    sums = source.cache / "sums" / f"{copy.stem}.json"
    flip(copy, 600)
    known = json.loads(sums.read_text())
    status = copy.stat()
    # as a disk does that decays: no date tells of it
    known["facts"] = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    sums.write_text(json.dumps(known))
    again = read(server, source)
    assert again[0].startswith("the copy of http")
    assert again[1:] == keys
    assert read(server, source) == keys
    assert len(server.gets) == 2


def test_a_copy_without_a_record_is_hashed_and_kept(server: Server, source: SourceConfig) -> None:
    (shard,) = open_shards(f"{server.url}/train-000001.tar", source=source)
    read_sample(shard, 0, source)
    (sums,) = (source.cache / "sums").iterdir()
    for content in ("", "[]", '{"facts": 3}', '{"sha256": 1, "checked": "x"}'):
        sums.write_text(content)
        os.utime(copies(source)[0])
        read_sample(shard, 1, source)
    assert len(server.gets) == 1


def test_a_damaged_scan_is_made_again(
    local: list[Shard], server: Server, source: SourceConfig
) -> None:
    (server.folder / INDEX).unlink()
    (shard,) = open_shards(f"{server.url}/train-000001.tar", source=source)
    (scan,) = (source.cache / "indexes").glob("*.json")
    text = scan.read_text()
    place = text.index(str(shard.offsets[1]))
    for damaged in (text[:place] + "9" + text[place + 1 :], text[:50], "", "[]"):
        scan.write_text(damaged)
        assert open_shards(f"{server.url}/train-000001.tar", source=source) == [shard]
        assert scan.read_text() == text


def test_the_bound_holds_while_many_fetch(server: Server, source: SourceConfig) -> None:
    shards = open_shards(f"{server.url}/{SHARDS}", source=source)
    sizes = [shard.size for shard in shards]
    source = replace(source, cache_gb=2.2 * max(sizes) / 1e9)  # room for two
    server.faults = ["slow"] * 6
    seen = []

    def size() -> int:
        total = 0
        for path in (source.cache / "shards").glob("*"):
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                continue
        return total

    with ThreadPoolExecutor(6) as pool:
        reads = [pool.submit(read_sample, shard, 0, source) for shard in shards]
        while not all(one.done() for one in reads):
            seen.append(size())
            time.sleep(0.01)
    assert [one.result()["__key__"] for one in reads] == [f"s{4 * i}" for i in range(6)]
    assert max(seen) > max(sizes)
    assert max([*seen, size()]) <= source.cache_gb * 1e9


def test_a_fetch_that_fails_gives_its_room_back(server: Server, source: SourceConfig) -> None:
    (shard,) = open_shards(f"{server.url}/train-000001.tar", source=source)
    server.faults = ["503"] * 3
    with pytest.raises(OSError, match="503"):
        read_sample(shard, 0, source)
    assert not list((source.cache / "shards").glob("*.part"))
    server.faults = ["truncate"]
    read_sample(shard, 0, replace(source, cache_gb=shard.size / 1e9))
