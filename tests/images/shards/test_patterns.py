"""Patterns of shards: what they stand for, and all that is missing, by name."""

from pathlib import Path

import pytest

from data.shards.patterns import expand
from data.shards.reading import open_shards
from data.shards.writing import write_shards


def touch(folder: Path, *names: str) -> list[str]:
    """Empty files of these names, and their paths."""
    for name in names:
        (folder / name).touch()
    return [str(folder / name) for name in names]


def test_braces_keep_their_order_and_wildcards_are_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "index.json")
    files = touch(tmp_path, "b-10.tar", "b-2.tar", "a-1.tar")
    assert expand(f"{tmp_path}/{{b-2,a-1}}.tar") == [files[1], files[2]]
    assert expand(f"{tmp_path}/*.tar") == sorted(files)
    assert expand([f"{tmp_path}/{{b,a}}-?.tar"]) == [files[1], files[2]]
    assert expand("http://host/a.tar?token=1") == ["http://host/a.tar?token=1"]


def test_a_name_with_the_characters_of_a_wildcard_is_taken_as_it_is(tmp_path: Path) -> None:
    (odd, _) = touch(tmp_path, "set[1].tar", "set1.tar")
    assert expand(odd) == [odd]


def test_all_holes_of_a_pattern_are_named_in_one_error(tmp_path: Path) -> None:
    touch(tmp_path, "000.tar", "004.tar")
    with pytest.raises(FileNotFoundError) as caught:
        expand(f"{tmp_path}/{{000..009}}.tar")
    missing = ", ".join(f"{tmp_path}/{i:03d}.tar" for i in range(10) if i not in (0, 4))
    assert f"8 of 10 shards do not exist: {missing}; check the pattern" in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"198 of 200 .*011\.tar and 188 more; check"):
        expand(f"{tmp_path}/{{000..199}}.tar")


def test_one_missing_shard_is_named_with_the_way_out(tmp_path: Path) -> None:
    write_shards([{"__key__": "a", "png": b"1"}], tmp_path, "train", 2)
    spec = f"{tmp_path}/train-{{000000..000001}}.tar"
    with pytest.raises(
        FileNotFoundError, match=r"train-000001\.tar does not exist; .*fcmae shards"
    ):
        open_shards(spec)


def test_a_wildcard_without_a_match_or_on_a_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no shard matches '.*/\*\.tar'"):
        expand(f"{tmp_path}/*.tar")
    with pytest.raises(ValueError, match="servers do not list their shards"):
        expand("http://host/*.tar")
