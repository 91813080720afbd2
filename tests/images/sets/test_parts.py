"""Pictures of recurring parts: a function of the seed, with parts at any place inside."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.sets import demo, parts
from data.sets.parts import SIDES, SIZE, PartsConfig, choose, picture, pictures, place
from data.sets.scenes import Drawing, read_drawings
from data.shards.reading import open_shards, read_sample
from fcmae.run.json_files import read_json

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def drawings() -> list[Drawing]:
    return read_drawings(demo.TEST)


def test_classes_are_drawings_of_different_motifs_without_their_margin(
    drawings: list[Drawing],
) -> None:
    chosen = choose(drawings, 7, seed=0)
    assert [drawing.label for drawing in chosen] == list(range(7))
    assert len({drawing.group for drawing in chosen}) == 7
    for drawing in chosen:
        assert drawing.image.getchannel("A").getbbox() == (0, 0, *drawing.image.size)
    assert [d.key for d in choose(drawings, 7, seed=0)] == [d.key for d in chosen]
    assert [d.key for d in choose(drawings, 7, seed=1)] != [d.key for d in chosen]


def test_more_classes_than_motifs_are_refused(drawings: list[Drawing]) -> None:
    count = len({drawing.group for drawing in drawings})
    with pytest.raises(ValueError, match=f"classes={count + 1} is more than the {count} motifs"):
        choose(drawings, count + 1, seed=0)


def test_pictures_are_a_function_of_seed_side_and_number(drawings: list[Drawing]) -> None:
    chosen = choose(drawings, 3, seed=0)
    first, again, longer = (list(pictures("train", chosen, n, 0)) for n in (4, 4, 6))
    assert first == again == longer[:4]
    assert [sample["cls"] for sample in longer] == [0, 1, 2, 0, 1, 2]
    others = [*pictures("test", chosen, 4, 0), *pictures("train", chosen, 4, 1)]
    assert not {sample["png"] for sample in others} & {sample["png"] for sample in longer}


def test_a_part_lies_anywhere_inside_or_covers_the_side_that_it_is_too_long_for() -> None:
    rng = np.random.default_rng(0)
    places = [place((40, SIZE + 10), rng) for _ in range(300)]
    assert {left for left, _ in places} == set(range(SIZE - 40 + 1))
    assert {top for _, top in places} == set(range(-10, 1))


def test_what_is_around_a_part_is_background() -> None:
    square = Image.new("RGBA", (60, 60), (0, 0, 0, 255))
    seen = picture(Drawing("d", "g", 0, square), np.random.default_rng(0))
    assert seen.size == (SIZE, SIZE)
    assert seen.mode == "L"
    nothing = Image.new("RGBA", (60, 60), (0, 0, 0, 0))
    ground = picture(Drawing("d", "g", 0, nothing), np.random.default_rng(0))
    covered = (np.asarray(seen) != np.asarray(ground)).mean()
    assert (SIDES[0] - 3) ** 2 / SIZE**2 < covered < (SIDES[1] + 3) ** 2 / SIZE**2


def test_shards_hold_what_was_asked_for_and_are_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = PartsConfig(out=tmp_path / "parts", classes=3, train=7, test=4)
    parts.build(config)
    assert capsys.readouterr().out.endswith(
        f"{config.out}/train-*.tar: 7 pictures\n{config.out}/test-*.tar: 4 pictures\n"
    )
    assert len(read_json(config.out / "classes.json", list)) == 3
    for split, labels in (("train", "0120120"), ("test", "0120")):
        (shard,) = open_shards(f"{config.out}/{split}-*.tar")
        samples = [read_sample(shard, i) for i in range(shard.samples)]
        assert "".join(str(int(sample["cls"])) for sample in samples) == labels
    with pytest.raises(FileExistsError):
        parts.build(config)
