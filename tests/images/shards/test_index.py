"""`index.json` of others: every field is checked before it is believed, and none is lost."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.config import SourceConfig
from data.shards.index import INDEX, read_index, write_index
from data.shards.index_lock import LOCK, index_lock
from data.shards.moments import Moments
from data.shards.reading import open_shards
from data.shards.scanning import index_shard
from data.shards.writing import write_shards
from tests.support.images import png
from tests.support.programs import run
from tests.support.shards import write_tar

MEASURED = {"count": 9, "sums": [1.0], "squares": [1.0]}


def indexed(folder: Path) -> tuple[str, dict[str, Any]]:
    """A shard of three samples, and its entry in the index beside it."""
    samples = ({"__key__": f"s{i}", "png": png(i)} for i in range(3))
    (shard,) = write_shards(samples, folder, "train", 3)
    return shard.url, json.loads((folder / INDEX).read_text())["shards"][shard.name]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"size": -1}, "size is below 0"),
        ({"size": True}, "'size' is True"),
        ({"size": "7"}, "'size' is '7'"),
        ({"size": 10**400}, "'size' is 1000"),
        ({"size": 5}, "offsets are no places of samples in 5 bytes"),
        ({"sha256": "a"}, "sha256 has not 64 hexadecimal digits"),
        ({"sha256": None}, "'sha256' is None"),
        ({"offsets": None}, "'offsets' is no list of whole numbers"),
        ({"offsets": {"0": 1}}, "'offsets' is no list of whole numbers"),
        ({"offsets": []}, "'offsets' is no list of whole numbers"),
        ({"offsets": [0]}, "offsets are no places"),
        ({"offsets": [0, 512.0]}, "'offsets' is no list of whole numbers"),
        ({"offsets": [False, 512]}, "'offsets' is no list of whole numbers"),
        ({"offsets": [-512, 512]}, "offsets are no places"),
        ({"offsets": [0, 2**40]}, "offsets are no places"),
        ({"offsets": [0, 10**400]}, "offsets are no places"),
        ({"offsets": [0, 1024, 512, 2048]}, "offsets do not increase"),
        ({"offsets": [0, 512, 512]}, "offsets do not increase"),
        ({"moments": []}, "no object"),
        ({"moments": MEASURED | {"count": [9, 9]}}, "no count, sum and square for each channel"),
        ({"moments": MEASURED | {"count": -9}}, "no count, sum and square for each channel"),
        ({"moments": MEASURED | {"sums": []}}, "no count, sum and square for each channel"),
        ({"moments": MEASURED | {"squares": [-1.0]}}, "no count, sum and square"),
        ({"moments": MEASURED | {"sums": [float("nan")]}}, "'sums' is nan"),
        ({"moments": MEASURED | {"sums": [1e300]}}, "no 9 pixels have the sum 1e.300"),
        ({"moments": MEASURED | {"own": [1, 1]}}, "range from 1.0 to 1.0 does not go up"),
        ({"moments": MEASURED | {"range": [1]}}, r"'range' is \[1\]"),
        ({"moments": MEASURED | {"nodata": float("inf")}}, "'nodata' is inf"),
        ({"moments": MEASURED | {"depth": {"types": "u"}}}, "'types' is 'u'"),
    ],
)
def test_a_field_that_no_index_has_is_refused_by_name(
    change: dict[str, object], why: str, tmp_path: Path
) -> None:
    url, entry = indexed(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps({"shards": {"train-000000.tar": entry | change}}))
    match = rf"index\.json is no index of shards \(shard 'train-000000\.tar': .*{why}"
    with pytest.raises(ValueError, match=match) as refused:
        open_shards(url)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("content", ["null", "[]", "{}", '{"shards": []}', "[" * 9999, "\xff", "{"])
def test_what_is_no_index_is_refused(content: str, tmp_path: Path) -> None:
    url, entry = indexed(tmp_path)
    (tmp_path / INDEX).write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"index\.json is no index of shards .*delete it"):
        open_shards(url)
    for name in ("", "..", "../a.tar", "a/b.tar"):
        (tmp_path / INDEX).write_text(json.dumps({"shards": {name: entry}}))
        with pytest.raises(ValueError, match="is no name of a shard"):
            open_shards(url)


def test_an_index_in_the_cache_that_is_damaged_is_made_again(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [("a.png", png(0))])
    source = SourceConfig(cache=tmp_path / "cache")
    (shard,) = open_shards(str(path), source=source)
    (kept,) = (tmp_path / "cache" / "indexes").glob("*.json")
    whole = kept.read_text()
    for damage in ("", whole[:-9], "null", whole.replace('"size": ', '"size": 1')):
        kept.write_text(damage)
        assert open_shards(str(path), source=source) == [shard]
        assert kept.read_text() == whole


def test_indexers_of_one_folder_lose_nothing_of_each_other(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"{i}.tar", [("a.png", png(i))]) for i in range(24)]
    shards = [index_shard(path) for path in paths]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write_index, ([shard] for shard in shards)))
    index = read_index(str(tmp_path))
    assert [index[shard.name] for shard in shards] == shards
    moments = Moments((1,), (1.0,), (1.0,))
    write_index([replace(shards[3], moments=moments)])
    assert read_index(str(tmp_path))["3.tar"].moments == moments
    assert not (tmp_path / LOCK).exists()


@pytest.mark.slow
def test_a_program_waits_while_another_changes_the_index(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [("a.png", png(0))])
    other = index_shard(write_tar(tmp_path / "o.tar", [("a.png", png(0))]))
    with ThreadPoolExecutor(1) as pool:
        with index_lock(tmp_path / INDEX):
            waiting = pool.submit(run, "-m", "data.shards", "index", path)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=8)
            assert not (tmp_path / INDEX).exists()
        write_index([other])
        assert waiting.result().returncode == 0
    assert sorted(read_index(str(tmp_path))) == ["o.tar", "s.tar"]
    assert sorted(file.name for file in tmp_path.iterdir()) == [INDEX, "o.tar", "s.tar"]


def test_a_lock_of_a_killed_program_does_not_block(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("")
    write_index([index_shard(write_tar(tmp_path / "s.tar", [("a.png", png(0))]))])
    assert not (tmp_path / LOCK).exists()
