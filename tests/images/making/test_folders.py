"""Folders as people have them: splits, wrappers, masks, links, names in any form, other files."""

import os
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from data.making.entries import Listing
from data.making.folders import list_folder
from data.making.listing import find_entries
from tests.support.images import make_image


def fill(root: Path, *names: str) -> Path:
    for name in names:
        make_image(root / name, seed=0)
    return root


def found(listing: Listing) -> set[tuple[str, str | int | None, str | None]]:
    return {(entry.key, entry.label, entry.split) for entry in listing.entries}


def test_folders_of_splits_are_splits_and_hold_the_classes(tmp_path):
    listing = list_folder(fill(tmp_path, "Train/a/1.png", "Train/b/x/2.png", "valid/a/1.png"))
    assert found(listing) == {
        ("Train/a/1", "a", "train"),
        ("Train/b/x/2", "b", "train"),
        ("valid/a/1", "a", "val"),
    }
    assert listing.notes == [f"{tmp_path}: taken as splits, not as classes: Train, valid"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("train2017", "val2017"),
        ("TrainImages", "ValImages"),
    ],
)
def test_splits_may_be_words_in_names(one, other, tmp_path):
    listing = list_folder(fill(tmp_path, f"{one}/a/1.png", f"{other}/a/2.png"))
    assert {label for _, label, _ in found(listing)} == {"a"}
    assert {split for _, _, split in found(listing)} == {
        "train",
        "test" if "test" in other else "val",
    }


def test_doubts_about_classes_are_said(tmp_path):
    folds = list_folder(
        fill(tmp_path / "f", *(f"fold{i}/{c}/{i}.png" for i in (1, 2) for c in "ab"))
    )
    assert folds.notes == [
        "each of the 2 classes, such as fold1, has the folders a, b: if these are the classes, put"
        " them outermost"
    ]
    one = list_folder(fill(tmp_path / "o", "cat/1.png", "cat/2.png"))
    assert one.notes == ["cat is the only class: to have no labels, give its folder instead"]
    (tmp_path / "e" / "c" / "d").mkdir(parents=True)
    bare = list_folder(fill(tmp_path / "e", "a/1.png", "b/2.png"))
    assert bare.notes == [f"1 folders hold no image, such as {tmp_path / 'e' / 'c'}"]


def test_raw_data_tables_and_archives_are_left_out_with_their_way_out(tmp_path):
    fill(tmp_path, "a/1.png", "b/2.png")
    for name in ("a/raw.dng", "labels.csv", "more.zip"):
        (tmp_path / name).write_bytes(b"II*\0" + bytes(100))  # as a TIFF begins
    reasons = dict(list_folder(tmp_path).left_out.keys())
    assert "develop it" in reasons[".dng"]
    assert "give it to fcmae shards make" in reasons[".csv"]
    assert "unpack it" in reasons[".zip"]


def test_splits_may_have_no_classes_or_lie_in_each_class(tmp_path):
    assert found(list_folder(fill(tmp_path / "flat", "train/1.png", "testing/2.png"))) == {
        ("train/1", None, "train"),
        ("testing/2", None, "test"),
    }
    inner = list_folder(fill(tmp_path / "inner", "a/train/1.png", "a/test/1.png", "b/train/2.png"))
    assert found(inner) == {
        ("a/train/1", "a", "train"),
        ("a/test/1", "a", "test"),
        ("b/train/2", "b", "train"),
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("val/a/1.png", "validation/a/2.png"), "val and validation both name the split 'val'"),
        (("trainA/1.png", "trainB/1.png", "testA/2.png"), "trainA and trainB both name the split"),
        (("train/1.png", "val/2.png", "more/3.png"), "train, val may be splits or classes, beside"),
        (("train/a/1.png", "more/3.png"), "train may be splits or classes, beside more: give one"),
        (("c/train/1.png", "c/test/1.png", "d/2.png"), "test, train may be splits or classes"),
        (("train/1.png", "train/a/2.png"), "train holds 1 images itself and 1 in sub-folders"),
        (("images/1.png", "images/2.png", "masks/1.png"), "images as the source, with --masks "),
        (("train/images/1.png", "train/masks/1_mask.png"), "images as the source, with --masks "),
        (("a/1.png", "a/1_mask.png", "b/2.png"), "1_mask seems to be the mask of 1 beside it"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(names, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        list_folder(fill(tmp_path, *names))


def test_classes_that_sound_like_splits_or_masks_are_classes(tmp_path):
    vehicles = list_folder(fill(tmp_path / "vehicles", "car/1.png", "train/1.png", "plane/1.png"))
    assert {entry.label for entry in vehicles.entries} == {"car", "train", "plane"}
    faces = list_folder(fill(tmp_path / "faces", "mask/a.png", "bare/b.png", "bare/c.png"))
    assert {entry.label for entry in faces.entries} == {"mask", "bare"}
    assert not faces.notes


def test_a_folder_around_all_classes_is_stepped_into(tmp_path):
    listing = list_folder(fill(tmp_path, "photos/cat/1.png", "photos/dog/2.png"))
    assert found(listing) == {("cat/1", "cat", None), ("dog/2", "dog", None)}
    stepped = f"all images of {tmp_path} lie in {tmp_path / 'photos'}, which is stepped into"
    assert listing.notes == [stepped]
    deeper = list_folder(fill(tmp_path / "b", "x/y/train/a/1.png", "x/y/test/a/2.png"))
    assert found(deeper) == {("train/a/1", "a", "train"), ("test/a/2", "a", "test")}
    single = list_folder(fill(tmp_path / "photos" / "dog"))
    assert [entry.label for entry in single.entries] == [None]


def test_files_of_systems_and_hidden_ones_are_counted(tmp_path):
    fill(tmp_path, "a/1.png", "b/2.png", "a/@eaDir/1.png/thumb.jpg", "__MACOSX/a/._1.png")
    fill(tmp_path, ".cache/3.png", ".4.png")
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"")
    listing = list_folder(tmp_path)
    assert found(listing) == {("a/1", "a", None), ("b/2", "b", None)}
    assert listing.left_out == Counter(
        {
            (".jpg", "of a system"): 1,
            (".png", "of a system"): 1,
            (".db", "of a system"): 1,
            (".png", "hidden"): 2,
        }
    )


def test_a_linked_folder_is_followed_once_and_circles_end(tmp_path):
    fill(tmp_path / "elsewhere" / "cat", "1.png")
    root = fill(tmp_path / "root", "dog/2.png")
    (root / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    (root / "again").symlink_to(root / "dog")
    (root / "dog" / "circle").symlink_to(root)
    (root / "dog" / "lost.png").symlink_to(root / "nothing.png")
    (root / "self").symlink_to(root / "self")
    listing = list_folder(root)
    lost = ("dog/lost", "dog", None)  # to be named when it is read
    assert found(listing) == {("cat/1", "cat", None), ("dog/2", "dog", None), lost}
    assert [note.removeprefix(str(root)) for note in listing.notes] == [
        "/again leads to a folder that is listed already: left out",
        "/dog/circle leads to a folder that is listed already: left out",
    ]
    assert listing.left_out == Counter({("", "a link to nothing"): 1})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_an_error(tmp_path):
    fill(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "b").chmod(0)
    try:
        with pytest.raises(OSError, match=r"b cannot be listed \(Permission denied\): allow it"):
            list_folder(tmp_path)
    finally:
        (tmp_path / "b").chmod(0o755)


def test_names_in_two_forms_of_unicode_are_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    listing = list_folder(fill(tmp_path, f"{composed}/1.png", f"{decomposed}/2.png", "tea/3.png"))
    assert {entry.label for entry in listing.entries} == {composed, "tea"}
    assert {entry.key for entry in listing.entries} == {f"{composed}/1", f"{composed}/2", "tea/3"}
    assert all(entry.path.is_file() for entry in listing.entries)
    assert listing.notes == [
        f"{tmp_path}: 2 folders are named '{composed}', in different forms of Unicode: they are"
        " taken as one"
    ]


def test_a_name_that_is_no_utf_8_is_left_out_alone(tmp_path):
    fill(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "b" / "2.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/b/\xe9.png"))
    fill(tmp_path, "b/3.png")
    listing = list_folder(tmp_path)
    assert found(listing) == {("a/1", "a", None), ("b/3", "b", None)}
    assert listing.left_out == Counter({(".png", "its name is no UTF-8"): 1})
    (note,) = listing.notes
    assert note == rf"{tmp_path}/b/\udce9.png is left out: its name is no UTF-8, rename it"


def test_content_decides_for_files_with_odd_suffixes_and_the_rest_is_counted(tmp_path):
    fill(tmp_path, "1.png", "2.png")
    (tmp_path / "2.png").rename(tmp_path / "two")
    for name, content in (("labels.csv", b"1.png,cat"), ("clip.mp4", b"\0\0\0\x18ftypisom")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "scan.bin").write_bytes(bytes(128) + b"DICM")
    listing = list_folder(tmp_path)
    assert found(listing) == {(name, None, None) for name in ("1", "scan", "two")}
    table = "a table: give it to fcmae shards make for the labels in it"
    assert listing.left_out == Counter({(".csv", table): 1, (".mp4", "no image"): 1})


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(ValueError, match=r"holds no images; .*; skipped 1 \.txt: no image$"):
        find_entries(tmp_path, "path", None)
