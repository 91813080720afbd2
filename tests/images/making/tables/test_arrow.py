"""Data sets as `datasets` saves them, with the images in the cells of Parquet and Arrow files."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.making.listing import find_entries
from data.making.masks import with_masks
from data.making.tables.arrow import unpack
from tests.support.images import png
from tests.support.programs import ROOT, environment, lines_of
from tests.support.servers import Handler, serve

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
datasets = pytest.importorskip("datasets")

# unsorted, so that their order has to come from the table; -1 is no label to `datasets`
NAMES = ["zebra", "ant"]
COLUMNS = {"image": (0, 1), "annotation": (2, 3)}
LABELS = [0, 1, -1, 1]
SHA = "0123456789abcdef0123456789abcdef01234567"


def a_set() -> Any:
    features = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=NAMES),
        "boxes": datasets.Sequence(datasets.Value("int64")),
    }
    cells = [{"bytes": png(i), "path": f"{i}.png"} for i in range(4)]
    content = {"image": cells, "label": LABELS, "boxes": [[i] for i in range(4)]}
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


@pytest.fixture
def quiet(monkeypatch):
    datasets.disable_progress_bars()


def write_parquet(path: Path) -> Path:
    """In row groups of two, as large files have several."""
    path.parent.mkdir(parents=True, exist_ok=True)
    a_set().to_parquet(path, batch_size=2)
    return path


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("kind", ["parquet", "saved", "saved splits", "folder of parquet"])
def test_images_labels_and_names_of_classes_come_from_the_cells(kind, tmp_path):
    source = tmp_path / "set"
    split = None
    if kind == "parquet":
        source = write_parquet(tmp_path / "set.v1.parquet")
    elif kind == "saved":
        a_set().save_to_disk(source)
    elif kind == "saved splits":
        datasets.DatasetDict(validation=a_set()).save_to_disk(source)
        split = "val"
    else:
        write_parquet(source / "data" / "test-00000-of-00001.parquet")
        split = "test"
    listing = find_entries(source, "path", None)
    assert listing.classes == NAMES
    entries = unpack(listing.entries, tmp_path / "cells")
    assert [entry.path.read_bytes() for entry in entries] == [png(i) for i in range(4)]
    assert {entry.path.suffix for entry in entries} == {".png"}
    assert [entry.label for entry in entries] == ["zebra", "ant", None, "ant"]
    assert [entry.metadata for entry in entries] == [{"boxes": [i]} for i in range(4)]
    assert {entry.split for entry in entries} == {split}
    assert "1 of 4 rows have no 'label'" in listing.notes[-1]


@pytest.mark.usefixtures("quiet")
def test_parts_of_one_table_are_one_set_and_none_may_be_missing(tmp_path):
    for number in range(2):
        write_parquet(tmp_path / f"train-{number:05d}-of-00002.parquet")
    listing = find_entries(tmp_path, "path", None)
    assert len({entry.key for entry in listing.entries}) == 8
    (tmp_path / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-00000-of-00002\.parquet is missing: copy"):
        find_entries(tmp_path, "path", None)


def test_cells_of_bytes_alone_are_images_and_an_empty_one_is_named(tmp_path):
    table = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"scan": [png(0), png(1)], "label": ["b", "a"]}), table)
    entries = unpack(find_entries(table, "path", None).entries, tmp_path / "cells")
    assert [Image.open(io.BytesIO(entry.path.read_bytes())).size for entry in entries] == [
        (48, 40)
    ] * 2
    assert [entry.label for entry in entries] == ["b", "a"]
    parquet.write_table(pyarrow.table({"scan": [png(0), None]}), table)
    with pytest.raises(ValueError, match=r"t\.parquet: row 2 has no image in 'scan'"):
        unpack(find_entries(table, "path", None).entries, tmp_path / "cells")


def test_of_two_columns_of_images_one_must_be_named(tmp_path):
    table = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"left": [png(0)], "right": [png(1)]}), table)
    with pytest.raises(ValueError, match=r"row 1 has no 'path'; its columns are left, right"):
        find_entries(table, "path", None)
    listing = find_entries(table, "right", None)
    (entry,) = unpack(listing.entries, tmp_path / "cells")
    assert entry.path.read_bytes() == png(1)
    assert listing.unused == ["left"]


def test_masks_come_from_cells_too(tmp_path):
    table = tmp_path / "t.parquet"
    cells = {name: [{"bytes": png(i), "path": None} for i in of] for name, of in COLUMNS.items()}
    parquet.write_table(pyarrow.table(cells), table)
    listing = find_entries(table, "image", None)
    entries, notes = with_masks(listing.entries, "annotation", table, tmp_path / "masks")
    assert notes == []
    assert [entry.mask.read_bytes() for entry in entries if entry.mask] == [png(2), png(3)]
    images = [entry.path.read_bytes() for entry in unpack(entries, tmp_path / "cells")]
    assert images == [png(0), png(1)]
    with pytest.raises(ValueError, match=r"t\.parquet: 'mask' is no column of images, as image, "):
        with_masks(listing.entries, "mask", table, tmp_path / "masks")


class HubHandler(Handler):
    """Serves files with the headers that huggingface_hub asks of the hub."""

    def answer(self, body: bool) -> None:
        self.path = self.path.partition("?")[0]
        super().answer(body)

    def end_headers(self) -> None:
        self.send_header("ETag", '"1"')
        self.send_header("X-Repo-Commit", SHA)
        super().end_headers()


@pytest.mark.slow
def test_a_data_set_of_the_hub_is_fetched_or_refused_in_one_line(tmp_path):
    name = "data/train-00000-of-00001.parquet"
    hub = tmp_path / "hub"
    table = write_parquet(hub / "datasets" / "org" / "set" / "resolve" / SHA / name)
    tree = [{"type": "file", "path": name, "size": table.stat().st_size, "oid": "1"}]
    answers = {"revision/main": {"id": "org/set", "sha": SHA}, f"tree/{SHA}": tree}
    for place, answer in answers.items():
        path = hub / "api" / "datasets" / "org" / "set" / place
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(answer))
    command = ("scripts/make_shards.py", "hf://datasets/org/set", tmp_path / "o", "--workers", 1)

    def offered(**settings: str) -> subprocess.CompletedProcess[str]:
        # no fork of an interpreter that has imported the library, which reads them at its import
        env = environment({"HF_HOME": str(tmp_path / "home"), **settings})
        words = [sys.executable, *map(str, command)]
        return subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True)

    done = offered(HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert done.stderr.startswith("error: hf://datasets/org/set is not in the cache and cannot be")
    assert len(lines_of(done.stderr)) == 1
    with serve(hub) as server:
        server.RequestHandlerClass = HubHandler
        done = offered(HF_ENDPOINT=server.url)
    assert done.returncode == 0, done.stderr
    assert "4 images, 2 classes" in done.stdout
    assert json.loads((tmp_path / "o" / "classes.json").read_text()) == NAMES
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        *("classes.json", "index.json", "train-000000.tar")
    ]


def test_a_table_that_is_named_like_a_split_is_one(tmp_path):
    for name in ("train", "test"):
        write_parquet(tmp_path / f"{name}.parquet")
    listing = find_entries(tmp_path, "path", None)
    assert {(entry.key[:4], entry.split) for entry in listing.entries} == {
        ("trai", "train"),
        ("test", "test"),
    }
    write_parquet(tmp_path / "more.parquet")
    with pytest.raises(ValueError, match=r"more\.parquet has no split in its name, as others"):
        find_entries(tmp_path, "path", None)
