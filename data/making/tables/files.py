"""Reading the rows of tables that are text: CSV in its dialects, and JSON."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fcmae.run.json_files import parse_json


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a table.

    Attributes:
        rows: The cells of each row by the names of their columns.
        notes: What was assumed in reading them, a line each.
        pictures: The columns whose cells are images.
        classes: The names of the classes in the order of their numbers, of the columns for which
            the table has them.
    """

    rows: Sequence[dict[str, Any]]
    notes: Sequence[str] = ()
    pictures: Sequence[str] = ()
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_csv(table: Path) -> Rows:
    """Read a file with a header whose separator is a comma, a semicolon, a tab or a bar."""
    text, notes = decode_text(table)
    file = io.StringIO(text, newline="")  # newlines as they are, since quoted cells may hold some
    header = file.readline()
    file.seek(0)
    marks = "\t,;|" if table.suffix.lower() == ".tsv" else ",;\t|"
    fields = {mark: len(next(csv.reader([header], delimiter=mark), [])) for mark in marks}
    separator = max(marks, key=lambda mark: fields[mark])  # the first of them, if none divides
    if separator not in ",\t":
        notes.append(f"{table}: columns end at {separator!r}, since the header has it most often")
    reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
    names = [name.strip() for name in next(reader, [])]
    refuse_twins(names)
    rows = []
    for cells in reader:
        if len(cells) > len(names):
            raise ValueError(f"line {reader.line_num} has more fields than the header")
        if cells:
            padded = cells + [None] * (len(names) - len(cells))
            rows.append(dict(zip(names, padded, strict=True)))
    return Rows(rows=rows, notes=notes)


def decode_text(table: Path) -> tuple[str, list[str]]:
    """Read a text in UTF-8, in UTF-16 with a byte order mark, or else in Windows-1252.

    Returns:
        The text, and a line on what was assumed, if anything was.
    """
    content = table.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16"), []
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError:  # it gives no meaning to five of the bytes
            text = content.decode("latin-1")
        return text, [f"{table} is no UTF-8: read as Windows-1252 (Latin-1)"]
    if "\0" in text:
        raise ValueError("it has zero bytes: save it as UTF-8")
    return text, []


def read_jsonl(table: Path) -> Rows:
    """Read a file with a JSON object in each line."""
    rows = []
    text, notes = decode_text(table)
    # not splitlines, which also cuts at characters that JSON strings may hold, such as U+2028
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        row = parse_json(line, f"line {number}", object, without_twins)
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no object of columns: {line[:40]}")
        rows.append(row)
    return Rows(rows=rows, notes=notes)


def read_json(table: Path) -> Rows:
    """Read a JSON list of objects, or lines of JSON, which many people call .json, too."""
    text, notes = decode_text(table)
    try:
        rows = parse_json(text, "it", object, without_twins)
    except ValueError as error:
        if "Extra data" not in str(error):
            raise
        return read_jsonl(table)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is no list of objects, one for each image: write it as one")
    return Rows(rows=rows, notes=notes)


def without_twins(cells: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, none of whose names may come twice."""
    refuse_twins([name for name, _ in cells])
    return dict(cells)


def refuse_twins(names: Sequence[str]) -> None:
    """Check that the columns of a table have different names.

    Raises:
        ValueError: Two have the same name.
    """
    seen = set[str]()
    for name in names:
        if name in seen:
            raise ValueError(f"two columns have the name {name!r}: rename or remove one")
        seen.add(name)


TEXTS: dict[str, Callable[[Path], Rows]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".txt": read_csv,
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
}
