"""Synthetic scenes: a function of the seed, masks that tell what is on top, sides kept apart."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from data.pixel_labels import MASK, MaskTarget
from data.sets import demo, scenes
from data.sets.scenes import CLASSES, Drawing, ScenesConfig, compose, deal, outside, read_drawings
from data.shards.__main__ import main as shards_main
from data.shards.index import Shard
from data.shards.reading import open_shards, read_sample

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    scenes.build(ScenesConfig(out=folder, train=15, test=5))
    return folder


def abouts(shard: Shard) -> list[dict]:
    return [json.loads(read_sample(shard, i)["json"]) for i in range(shard.samples)]


def solid(label: int, colour: tuple[int, int, int]) -> Drawing:
    return Drawing(f"d{label}", f"g{label}", label, Image.new("RGBA", (72, 72), (*colour, 255)))


def test_outside_is_what_a_flood_from_the_border_reaches() -> None:
    for seed in range(20):
        white = np.random.default_rng(seed).random((17, 23)) < 0.6
        framed = Image.fromarray(np.pad(white, 1, constant_values=True)).convert("L")
        ImageDraw.floodfill(framed, (0, 0), 1)
        expected = np.asarray(framed)[1:-1, 1:-1] == 1
        assert np.array_equal(outside(white), expected)


def test_white_that_is_enclosed_belongs_to_the_drawing() -> None:
    white = np.ones((9, 9), bool)
    white[2:7, 2:7] = False
    white[4, 4] = True
    assert not outside(white)[4, 4]
    assert outside(white).sum() == 81 - 25


def test_every_drawing_has_a_part_that_is_not_white() -> None:
    shares = [
        np.asarray(drawing.image.getchannel("A")).mean() / 255
        for drawing in read_drawings(demo.TEST)
    ]
    assert min(shares) > 0.05


def test_the_mask_names_the_drawing_that_is_on_top() -> None:
    drawings = {1: [solid(1, (255, 0, 0))], 2: [solid(2, (0, 0, 255))]}
    for seed in range(10):
        image, mask, _ = compose(drawings, np.random.default_rng(seed))
        pixels, labels = np.asarray(image), np.asarray(mask)
        assert set(np.unique(labels)) <= {0, 1, 2}
        for label, colour in ((1, (255, 0, 0)), (2, (0, 0, 255))):
            assert np.array_equal((pixels == colour).all(-1), labels == label)


def test_scenes_are_a_function_of_the_seed() -> None:
    drawings = [solid(1, (255, 0, 0)), solid(2, (0, 0, 255))]
    first, again, other = (list(scenes.scenes("test", drawings, 3, seed)) for seed in (0, 0, 1))
    assert first == again
    assert all(a["png"] != b["png"] for a, b in zip(first, other, strict=True))
    assert first[0]["png"] != first[1]["png"]


def test_folds_share_no_motif_and_every_class_is_in_each() -> None:
    drawings = [
        Drawing(f"{label}-{i}", f"{label}-{i // 2}", label, Image.new("RGBA", (1, 1)))
        for label in (1, 2)
        for i in range(20)
    ]
    folds = deal(drawings, 5)
    groups = [{d.group for some in fold.values() for d in some} for fold in folds]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 20
    assert [sorted(fold) for fold in folds] == [[1, 2]] * 5


def test_shards_hold_images_masks_and_names_of_classes(built: Path) -> None:
    (train,) = open_shards(str(built / "train-000000.tar"))
    sample = read_sample(train, 0)
    assert sorted(sample) == ["__key__", "json", "png", "seg.png"]
    png = sample["png"]
    assert isinstance(png, bytes)
    assert Image.open(io.BytesIO(png)).size == (96, 96)
    assert MaskTarget(len(CLASSES), (96, 96))(sample).shape == (96, 96)
    assert MASK in sample
    names = json.loads((built / "classes.json").read_text())
    assert names == ["background", *demo.CLASSES]


def test_shards_pass_verification(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(built / f"{split}-000000.tar") for split in ("train", "test")]
    with pytest.raises(SystemExit, match="0"):
        shards_main(["verify", *paths, "--workers", "1"])
    assert "20 samples in 2 shards: all is well" in capsys.readouterr().out


def test_drawings_stay_on_their_side_and_in_their_fold(built: Path) -> None:
    sides = []
    for split, spec in (("train", demo.TRAIN), ("test", demo.TEST)):
        (shard,) = open_shards(str(built / f"{split}-000000.tar"))
        used = {key for about in abouts(shard) for key in about["drawings"]}
        shards = open_shards(spec)
        keys = {read_sample(shard, i)["__key__"] for shard in shards for i in range(shard.samples)}
        assert used <= keys
        sides.append(used)
    assert not sides[0] & sides[1]
    (train,) = open_shards(str(built / "train-000000.tar"))
    fold_of = {}
    for about in abouts(train):
        for key in about["drawings"]:
            assert fold_of.setdefault(key, about["fold"]) == about["fold"]
    assert set(fold_of.values()) == {0, 1, 2, 3, 4}


def test_shards_that_are_there_are_refused(built: Path) -> None:
    with pytest.raises(FileExistsError, match="shards are never overwritten"):
        scenes.build(ScenesConfig(out=built))
