"""Folders and tables of images in place of shards: made once, again when an image has changed."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.config import SourceConfig
from data.making.cached import as_shards
from data.shards.class_names import CLASSES, read_names
from data.shards.reading import open_shards


@pytest.fixture
def source(tmp_path: Path) -> SourceConfig:
    return SourceConfig(cache=tmp_path / "cache")


def photos(folder: Path, count: int = 4) -> Path:
    for i in range(count):
        path = folder / f"c{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(path)
    return folder


def test_a_folder_becomes_shards_once(
    tmp_path: Path, source: SourceConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos(tmp_path / "photos")
    (pattern,) = as_shards(str(folder), source)
    assert "4 images become shards, once, in" in capsys.readouterr().out
    (shard,) = open_shards(pattern)
    assert shard.samples == 4
    assert shard.moments is not None
    made = Path(shard.url)
    assert made.is_relative_to(source.cache / "made")
    assert read_names(made.parent / CLASSES) == ["c0", "c1"]
    before = made.stat().st_mtime_ns
    assert as_shards([str(folder)], source) == [pattern]
    assert capsys.readouterr().out == ""
    assert made.stat().st_mtime_ns == before


def test_a_changed_or_new_image_makes_other_shards(tmp_path: Path, source: SourceConfig) -> None:
    folder = photos(tmp_path / "photos")
    first = as_shards(str(folder), source)
    os.utime(folder / "c0/0.png", ns=(0, 0))
    second = as_shards(str(folder), source)
    photos(folder, 5)
    third = as_shards(str(folder), source)
    assert len({*first, *second, *third}) == 3
    assert open_shards(third)[0].samples == 5


def test_shards_that_lack_more_images_than_are_allowed_are_refused(
    tmp_path: Path, source: SourceConfig
) -> None:
    folder = photos(tmp_path / "photos")
    (folder / "c0/0.png").write_bytes(b"none")
    lax = as_shards(str(folder), source, max_broken=0.3)
    with pytest.raises(
        ValueError, match=r"1 of 4 images of .* share --data\.max_bad_fraction 0\.1"
    ):
        as_shards(str(folder), source, max_broken=0.1)
    assert as_shards(str(folder), source, max_broken=0.3) == lax


def test_a_table_becomes_shards(tmp_path: Path, source: SourceConfig) -> None:
    photos(tmp_path / "photos")
    table = tmp_path / "list.csv"
    table.write_text("path,label\nphotos/c0/0.png,a\nphotos/c1/1.png,b\n")
    assert open_shards(as_shards(str(table), source))[0].samples == 2


def test_patterns_of_shards_stay_as_they_are(tmp_path: Path, source: SourceConfig) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/train-000000.tar").touch()
    specs = ["a-{0..3}.tar", "s3://bucket/x.tar", str(tmp_path / "shards"), "shards/*.tar"]
    assert as_shards(specs, source) == specs


def test_splits_are_named_one_by_one(tmp_path: Path, source: SourceConfig) -> None:
    for split in ("train", "test"):
        photos(tmp_path / "photos" / split)
    with pytest.raises(ValueError, match="is divided into test, train: name the folder of one"):
        as_shards(str(tmp_path / "photos"), source)
    assert len(as_shards(str(tmp_path / "photos/train"), source)) == 1


def test_two_processes_make_them_once(tmp_path: Path, source: SourceConfig) -> None:
    from tests.support.programs import start

    folder = photos(tmp_path / "photos", 12)
    code = "import sys; from pathlib import Path; from data.config import SourceConfig;"
    code += "from data.making.cached import as_shards;"
    code += "print(as_shards(sys.argv[1], SourceConfig(cache=Path(sys.argv[2]))))"
    programs = [start("-c", code, folder, source.cache) for _ in range(2)]
    told = [program.communicate(timeout=120)[0] for program in programs]
    assert [program.returncode for program in programs] == [0, 0], told
    assert sum("become shards, once" in text for text in told) == 1
    assert told[0].splitlines()[-1] == told[1].splitlines()[-1]
