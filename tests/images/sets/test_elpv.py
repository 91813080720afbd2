"""The second data set: its split, labels and members. Its photographs are in the extra `elpv`."""

import json
from pathlib import Path

import pytest

from data.sets.elpv import BLOCK, CLASSES, TEST_EVERY, Elpv, build, samples
from data.shards.reading import open_shards, read_sample


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elpv")
    build(Elpv(out=folder))
    return folder


def test_blocks_of_neighbours_are_on_one_side_of_the_split() -> None:
    train, test = ({s["json"]["block"] for s in samples(side)} for side in (False, True))
    assert not train & test
    assert test == set(range(TEST_EVERY - 1, max(train | test) + 1, TEST_EVERY))
    keys = [int(s["__key__"].removeprefix("cell")) - 1 for s in samples(True)]
    assert {key // BLOCK for key in keys} == test


def test_a_cell_is_defective_from_a_probability_of_a_half_on() -> None:
    for sample in samples(False):
        assert sample["cls"] == (sample["json"]["probability"] in (0.6666666666666666, 1.0))


def test_all_photographs_are_in_shards_that_verify(shards: Path) -> None:
    train = open_shards((f"{shards}/train-{{000000..000003}}.tar",), verify=True)
    (test,) = open_shards((f"{shards}/test-000000.tar",), verify=True)
    assert (sum(shard.samples for shard in train), test.samples) == (1976, 648)
    members = read_sample(test, 0)
    assert json.loads(members["json"]).keys() == {"probability", "type", "block"}
    assert json.loads((shards / "classes.json").read_text()) == list(CLASSES)


def test_shards_are_not_written_twice(shards: Path) -> None:
    with pytest.raises(FileExistsError, match="shards are never overwritten"):
        build(Elpv(out=shards))
