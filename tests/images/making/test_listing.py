"""Tables of images that are wrong are refused by line; splits keep what they promise."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from data.making.entries import Entry
from data.making.listing import find_entries
from data.making.splitting import by_prefix, split
from tests.support.images import write_images


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "file,label\nimage0.png,1\n", "row 1 has no 'path'; its columns are file, label"),
        ("t.csv", "path,label\nnowhere.png,1\n", "row 1 names nowhere.png, which does not exist"),
        ("t.csv", "path,label\n", "t.csv has no rows"),
        ("t.csv", "path\nimage0.png,1\n", "line 2 has more fields than the header"),
        ("t.csv", 'path\n"image0.png"x\n', "t.csv is damaged or no such table: ',' expected"),
        (
            "t.csv",
            b"path\n\0.png\n",
            "t.csv is damaged or no such table: it has zero bytes: save it",
        ),
        ("t.jsonl", '{"path": "image0.png"}\n{"path": \n', "line 2 is no JSON (Expecting value"),
        ("t.jsonl", '["image0.png"]\n', 'line 1 is no object of columns: ["image0.png"]'),
        ("t.jsonl", '{"path": 3}\n', "row 1 names 3, which does not exist"),
        ("t.parquet", "PAR2", "t.parquet is damaged or no such table: "),
    ],
)
def test_wrong_tables_are_refused_in_one_line(name, text, message, tmp_path):
    write_images(tmp_path, 2)
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)) as error:
        find_entries(tmp_path / name, "path", None)
    assert "\n" not in str(error.value)


def test_json_lines_end_at_line_feeds_alone(tmp_path):
    write_images(tmp_path, 1)
    row = {"path": "image0.png", "note": "one\u2028two"}
    (tmp_path / "t.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    (entry,) = find_entries(tmp_path / "t.jsonl", "path", None).entries
    assert entry.metadata == {"note": "one\u2028two"}


def entries(classes: int, each: int) -> list[Entry]:
    return [
        Entry(path=Path(f"{c}-{i}.png"), key=f"{c}-{i}", label=c)
        for c in range(classes)
        for i in range(each)
    ]


def test_a_stratified_split_takes_the_share_of_each_class():
    parts = split(entries(5, 20), "train", {"val": 0.1, "test": 0.2}, "stratified")
    counts = {name: Counter(entry.label for entry in part) for name, part in parts.items()}
    assert counts == {
        "train": dict.fromkeys(range(5), 14),
        "val": dict.fromkeys(range(5), 2),
        "test": dict.fromkeys(range(5), 4),
    }


def test_a_hashed_split_keeps_every_image_on_its_side_when_others_come():
    few = split(entries(2, 50), "train", {"val": 0.2}, "hashed")["val"]
    rest, many, _ = split(entries(4, 80), "train", {"val": 0.2, "test": 0.3}, "hashed").values()
    assert {entry.key for entry in few} <= {entry.key for entry in many}
    assert 0.12 < len(many) / 320 < 0.28
    assert not {entry.key for entry in few} & {entry.key for entry in rest}


def test_splits_of_the_source_are_prefixes_and_shares_are_taken_of_the_first():
    given = [
        replace(entry, split="test" if i % 2 else "train") for i, entry in enumerate(entries(2, 20))
    ]
    parts = by_prefix(given, "train", {"val": 0.5, "test": 0.0}, "stratified")
    assert {name: len(part) for name, part in parts.items()} == {"train": 10, "test": 20, "val": 10}
    with pytest.raises(
        ValueError, match="--test takes out images, but there is a part 'test' already"
    ):
        by_prefix(given, "train", {"test": 0.1}, "hashed")
    with pytest.raises(ValueError, match="--val takes images of 'other', which has none"):
        by_prefix(given, "other", {"val": 0.1}, "hashed")
    with pytest.raises(ValueError, match=r"--val 0.01 of 40 images leaves 'val' without any"):
        by_prefix(entries(2, 20), "train", {"val": 0.01}, "stratified")


def grouped(patients: int, each: int) -> list[Entry]:
    """Images of patients, each of one class but for the last image, which is of the other."""
    return [
        Entry(
            path=Path(f"{p}-{i}.png"),
            key=f"{p}-{i}",
            label=(p + (i == 0)) % 2,
            metadata={"patient": f"p{p}"},
        )
        for p in range(patients)
        for i in range(each)
    ]


@pytest.mark.parametrize("how", ["hashed", "stratified"])
def test_images_of_one_group_stay_on_one_side(how):
    parts = by_prefix(grouped(40, 5), "train", {"val": 0.2, "test": 0.1}, how, "patient")
    sides = [{entry.metadata["patient"] for entry in part} for part in parts.values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 40
    if how == "stratified":
        assert {name: len(part) for name, part in parts.items()} == {
            "train": 140,
            "val": 40,
            "test": 20,
        }
    again = by_prefix(grouped(60, 7), "train", {"val": 0.2, "test": 0.1}, "hashed", "patient")
    if how == "hashed":  # also when others are added
        assert all(
            sides[i] <= {entry.metadata["patient"] for entry in again[name]}
            for i, name in enumerate(("train", "val", "test"))
        )


def test_groups_that_cannot_be_kept_together_are_refused():
    images = grouped(4, 2)
    shares = {"val": 0.5}
    with pytest.raises(ValueError, match=r"0-0\.png has no 'person', the column of --group; the"):
        by_prefix(images, "train", shares, "hashed", "person")
    odd = [*images, replace(images[0], key="odd", metadata={"patient": ""})]
    with pytest.raises(ValueError, match=r"0-0\.png has no 'patient', the column of --group; the"):
        by_prefix(odd, "train", shares, "hashed", "patient")
    halves = [replace(entry, split="val" if i % 2 else "train") for i, entry in enumerate(images)]
    with pytest.raises(ValueError, match=r"patient 'p0' is in 'train' and in 'val' of the source"):
        by_prefix(halves, "train", {}, "hashed", "patient")
    with pytest.raises(ValueError, match=r"--group patient keeps groups together where --val or"):
        by_prefix(images, "train", {}, "hashed", "patient")
