"""One rule for the numbers of classes, in folders as in tables."""

import json
from pathlib import Path

import pytest

from data.making.entries import Entry
from data.making.labels import label_entries, refuse_numbered
from data.shards.writing import write_shards
from tests.support.images import png

WHERE = Path("out/classes.json")


def labelled(labels: list, known: list[str]) -> tuple[list, list[str], list[str]]:
    entries = [Entry(path=Path(str(i)), key=str(i), label=x) for i, x in enumerate(labels)]
    entries, classes, notes = label_entries(entries, known, WHERE)
    return [entry.label for entry in entries], classes, notes


@pytest.mark.parametrize("kind", [int, str])
def test_whole_numbers_keep_their_value_as_text_and_as_numbers(kind):
    assert labelled([kind(i) for i in range(12)], []) == (list(range(12)), [], [])
    values, classes, (note,) = labelled([kind(3), kind(7)], [])
    assert (values, classes) == ([3, 7], [])
    assert "stay as they are; of 0 to 7, 6 have no image" in note


def test_other_names_are_sorted_and_01_is_not_1():
    assert labelled(["b", "a", None], []) == ([1, 0, None], ["a", "b"], [])
    assert labelled(["1", "01", "2"], []) == ([1, 0, 2], ["01", "1", "2"], [])


def test_later_images_keep_to_the_names_by_name_or_by_place():
    known = ["ant", "ox", "yak"]
    assert labelled(["yak", "ant"], known) == ([2, 0], known, [])
    values, classes, (note,) = labelled([2, 0], known)
    assert (values, classes) == ([2, 0], known)
    assert note == f"the labels are numbers, and taken as places in {WHERE} (ant, ox, yak)"
    assert labelled(["10", "9"], ["1", "10", "9"])[0] == [1, 2]  # names before places
    for bad in ([3], ["cow"], ["1", "ant"]):
        with pytest.raises(ValueError, match=r"is no class of .* \(ant, ox, yak\), nor the number"):
            labelled(bad, known)


def test_names_do_not_come_to_shards_whose_labels_are_numbers(tmp_path):
    write_shards([{"__key__": "a", "png": png(0), "cls": 1}], tmp_path, "train", 1)
    with pytest.raises(ValueError, match=r"has labels, but no .*classes\.json names them"):
        refuse_numbered(tmp_path)
    (tmp_path / "other").mkdir()
    write_shards([{"__key__": "a", "png": png(0)}], tmp_path / "other", "train", 1)
    refuse_numbered(tmp_path / "other")
    refuse_numbered(tmp_path / "none")
    assert json.loads((tmp_path / "index.json").read_text())["shards"]


def test_names_that_are_alike_are_said():
    assert labelled(["Cat", "cat", "a  b", "A b", "dog"], [])[2] == [
        "different classes, though alike but for capital letters or blanks:"
        " 'A b' and 'a  b', 'Cat' and 'cat'"
    ]
