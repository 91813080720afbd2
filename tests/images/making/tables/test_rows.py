"""Tables as people have them: dialects of CSV, odd labels, odd paths; each has one meaning."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from data.making.entries import Entry, Listing
from data.making.listing import find_entries
from tests.support.images import make_image, write_images


def listed(table: Path, content: str | bytes, **columns: Any) -> Listing:
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    return find_entries(table, columns.get("path", "path"), columns.get("label"))


def labels(listing: Listing) -> list[str | int | None]:
    return [entry.label for entry in listing.entries]


def csv_of(*cells: str) -> str:
    """A table of image0.png, image1.png and so on with these labels."""
    return "path,label\n" + "".join(f"image{i}.png,{cell}\n" for i, cell in enumerate(cells))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "path, label, note\nimage0.png, cat, a b\nimage1.png, dog, c"),
        ("t.csv", "path;label;note\nimage0.png;cat;a b\nimage1.png;dog;c"),
        ("t.csv", "path\tlabel\tnote\nimage0.png\tcat\ta b\nimage1.png\tdog\tc"),
        ("t.tsv", "path\tlabel\tnote\r\nimage0.png\tcat\ta b\r\nimage1.png\tdog\tc\r\n"),
        ("t.csv", "path,label,note\rimage0.png,cat,a b\rimage1.png,dog,c\r"),
        ("t.csv", "path,label,note\nimage0.png,cat,a b\nimage1.png,dog,c\n".encode("utf-16")),
        (
            "t.txt",
            "path\tlabel\tnote\r\nimage0.png\tcat\ta b\r\nimage1.png\tdog\tc".encode("utf-16"),
        ),
        ("t.csv", '\ufeff"path","label","note"\n"image0.png","cat","a b"\nimage1.png,dog,c\n'),
        (
            "t.json",
            '[{"path": "image0.png", "label": "cat", "note": "a b"},'
            ' {"path": "image1.png", "label": "dog", "note": "c"}]',
        ),
    ],
)
def test_every_dialect_gives_the_same_rows(name, content, tmp_path):
    write_images(tmp_path, 2)
    found = listed(tmp_path / name, content)
    assert labels(found) == ["cat", "dog"]
    assert [entry.metadata for entry in found.entries] == [{"note": "a b"}, {"note": "c"}]


def test_tabs_divide_a_tsv_though_its_header_has_as_many_commas(tmp_path):
    write_images(tmp_path, 1)
    found = listed(tmp_path / "t.tsv", "path\tage, years\nimage0.png\t7\n")
    assert found.entries[0].metadata == {"age, years": "7"}


def test_a_table_that_is_no_utf8_is_read_as_windows_1252_and_this_is_said(tmp_path):
    write_images(tmp_path, 1)
    found = listed(tmp_path / "t.csv", "path,label\nimage0.png,Löwe\n".encode("cp1252"))
    assert labels(found) == ["Löwe"]
    assert found.notes == [f"{tmp_path}/t.csv is no UTF-8: read as Windows-1252 (Latin-1)"]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (("2.0", "0.0", ""), [2, 0, None]),  # as pandas writes a column of integers with a gap
        (("cat", "nan", "dog"), ["cat", None, "dog"]),
        (("-1", "0", "1"), ["-1", "0", "1"]),
        (("01", "1", "2"), ["01", "1", "2"]),
        (("0.5", "1.5", "2"), ["0.5", "1.5", "2"]),
        (("10", "2", "0"), [10, 2, 0]),
        (("cat", "7", "none"), ["cat", "7", "none"]),
    ],
)
def test_labels_of_csv_and_json_have_the_same_meaning(cells, expected, tmp_path):
    write_images(tmp_path, 3)
    from_csv = listed(tmp_path / "t.csv", csv_of(*cells))
    assert labels(from_csv) == expected
    values: list[Any] = []
    for cell in cells:
        try:
            values.append(json.loads(cell.replace("nan", "NaN").replace("none", '"none"')))
        except ValueError:
            values.append(cell or None)
    rows = [{"path": f"image{i}.png", "label": value} for i, value in enumerate(values)]
    from_json = listed(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    assert labels(from_json) == expected
    assert from_json.notes == from_csv.notes


def test_what_was_assumed_of_labels_is_said(tmp_path):
    write_images(tmp_path, 3)
    found = listed(tmp_path / "t.csv", csv_of("cat", "", "nan"))
    assert found.notes == [
        "2 of 3 rows have no 'label' (empty, null or nan): their images are taken without a label"
    ]
    (note,) = listed(tmp_path / "t.csv", csv_of("-1", "0", "1")).notes
    assert note.startswith("'-1' in 'label' is no number of a class (0, 1, ...), so all labels are")
    assert listed(tmp_path / "t.csv", csv_of("0", "1", "2")).notes == []


def entry_of(table: Path, path: str) -> tuple[Entry, list[str]]:
    found = listed(table, json.dumps([{"path": path}]))
    (entry,) = found.entries
    return entry, list(found.notes)


def test_paths_of_every_kind_are_found(tmp_path, monkeypatch):
    image = tmp_path / "home" / "deep er" / "0a.1b.png"
    make_image(image, 0)
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / "t.json"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "tables")
    for path in (
        str(image),
        f" {image}",
        "~/deep er/0a.1b.png",
        f"file://{tmp_path}/home/deep%20er/0a.1b.png",
    ):
        entry, notes = entry_of(table, path)
        assert entry.path == image
        assert notes == []
    entry, notes = entry_of(table, r"..\home\deep er\0a.1b.png")
    assert entry.path.samefile(image)
    assert entry.key == "home/deep er/0a_1b"
    assert notes == [rf"{table}: its paths are of Windows: \ is read as /"]
    entry, notes = entry_of(table, "../home/deep er/0a.1b")
    assert entry.key == "home/deep er/0a_1b"
    assert notes == [f"{table}: its paths lack suffixes: those of the one image of each name"]
    monkeypatch.chdir(tmp_path / "home")
    entry, notes = entry_of(table, "deep er/0a.1b.png")
    assert entry.path.samefile(image)
    assert notes == [f"{table}: its paths start at the current directory, not at its own"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"path": "https://a.org/x.png"}],
            "row 1 names https://a.org/x.png, an address: download",
        ),
        ([{"path": "image0"}], "row 1: image0 may be image0.jpg or image0.png: write the suffix"),
        ([{"path": "image0.png"}, {"path": "./image0.png"}], "rows 1 and 2 both name"),
        ([{"path": "image0.png", "label": [0, 1]}], "row 1 has several values in 'label', [0, 1]"),
        ([{"path": "image0.png", "label": "[0, 1]"}], "row 1 has several values in 'label'"),
        ([{"path": "notes.txt"}], "row 1: notes.txt is no image that is known"),
        ([{"path": float("nan")}], "row 1 has no 'path'"),
    ],
)
def test_what_has_no_one_meaning_is_refused_by_row(rows, message, tmp_path):
    write_images(tmp_path, 1)
    make_image(tmp_path / "image0.jpg", 0)
    (tmp_path / "notes.txt").write_text("an image follows")
    with pytest.raises(ValueError, match=re.escape(message)):
        listed(tmp_path / "t.json", json.dumps(rows))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "path,label,label\nimage0.png,1,2\n"),
        ("t.csv", "path,label, label\nimage0.png,1,2\n"),
        ("t.jsonl", '{"path": "image0.png", "label": 1, "label": 2}'),
    ],
)
def test_two_columns_of_one_name_are_refused(name, content, tmp_path):
    write_images(tmp_path, 1)
    with pytest.raises(ValueError, match=r"two columns have the name 'label': rename or remove"):
        listed(tmp_path / name, content)


def test_names_that_may_be_no_names_are_said(tmp_path):
    write_images(tmp_path, 4)

    def said(*cells: str) -> str:
        return "\n".join(listed(tmp_path / "t.csv", csv_of(*cells)).notes)

    assert "'NULL' in 'label' is no number of a class" in said("0", "1", "NULL")
    assert "NA, None in 'label' is taken as the name of a class" in said("cat", "NA", "None")
    assert "'a|b' in 'label' is taken as the name of one class" in said("a|b", "a", "b")
    assert not said("cat", "dog", "a/b")


def test_whole_numbers_beside_names_are_one_class_however_they_are_stored(tmp_path):
    write_images(tmp_path, 4)
    rows = [{"path": f"image{i}.png", "label": x} for i, x in enumerate([1, "1", 1.0, "cat"])]
    found = listed(tmp_path / "t.ndjson", "\n".join(map(json.dumps, rows)))
    assert labels(found) == ["1", "1", "1", "cat"]


def test_a_table_without_its_column_of_labels_says_which_columns_it_has(tmp_path):
    write_images(tmp_path, 1)
    found = listed(tmp_path / "t.csv", "path,Label\nimage0.png,cat\n")
    assert labels(found) == [None]
    assert "--label-column may name one of Label" in found.notes[0]


def test_lines_of_json_may_be_called_json(tmp_path):
    write_images(tmp_path, 2)
    lines = '{"path": "image0.png", "label": "a"}\n{"path": "image1.png", "label": "b"}\n'
    assert labels(listed(tmp_path / "t.json", lines)) == ["a", "b"]


def test_a_column_of_splits_is_followed(tmp_path):
    write_images(tmp_path, 3)
    table = "path,label,split\nimage0.png,a,train\nimage1.png,b,Test\nimage2.png,a,{}\n"
    found = listed(tmp_path / "t.csv", table.format("valid"))
    assert [entry.split for entry in found.entries] == ["train", "test", "val"]
    assert "the column 'split' says which shards an image goes into" in found.notes[0]
    with pytest.raises(ValueError, match="but also 'extra', which is none of train, training"):
        listed(tmp_path / "t.csv", table.format("extra"))


@pytest.mark.parametrize("label", ["7" * 400, f'"{"7" * 400}"', "1e300", f'"{"7" * 5000}"'])
def test_a_number_of_hundreds_of_digits_is_a_name(label: str, tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    found = listed(tmp_path / "t.jsonl", f'{{"path": "image0.png", "label": {label}}}')
    (name,) = labels(found)
    assert isinstance(name, str)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[" * 99_999, "is nested too deeply"),
        ('{"path": "a.png", "path": "b.png"}', "two columns have the name 'path'"),
        ('{"path": ' + "7" * 5000 + "}", "is no JSON .Exceeds the limit"),
    ],
)
def test_a_table_of_others_is_read_within_bounds(content: str, why: str, tmp_path: Path) -> None:
    for name in ("t.jsonl", "t.json"):
        with pytest.raises(ValueError, match=f"{name} is damaged or no such table: .*{why}"):
            listed(tmp_path / name, content)


def test_files_of_datasets_name_files_beside_them(tmp_path: Path) -> None:
    for content in ("null", "{}", '{"_data_files": [{"filename": "../a.arrow"}]}', "[" * 9999):
        (tmp_path / "state.json").write_text(content)
        with pytest.raises(ValueError, match=r"state\.json"):
            find_entries(tmp_path, "path", None)
