"""Listing the images that a table names: CSV, JSON lines or Parquet."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.config import IMAGE_SUFFIXES
from data.making.entries import Entry, Listing, key_of


def list_table(table: Path, path_column: str, label_column: str | None) -> Listing:
    """List the images that a table names; see `find_entries`."""
    try:
        rows = READERS[table.suffix.lower()](table)
    except (ValueError, csv.Error) as error:  # those of pyarrow are ValueErrors, too
        raise ValueError(f"{table} is damaged or no such table: {error}") from error
    if label_column is None:
        label_column = "label"
    elif rows and not any(label_column in row for row in rows):
        raise ValueError(
            f"{table} has no column {label_column!r}; its columns are {', '.join(rows[0])}: name"
            " the one with the labels (--label-column)"
        )
    entries = []
    for number, row in enumerate(rows, 1):
        if not row.get(path_column):
            raise ValueError(
                f"{table}: row {number} has no {path_column!r}; its columns are {', '.join(row)}:"
                " name the one with the paths (--path-column)"
            )
        name = Path(str(row[path_column]))
        if not (table.parent / name).is_file():
            raise FileNotFoundError(f"{table}: row {number} names {name}, which does not exist")
        if name.suffix.lower()[1:] not in IMAGE_SUFFIXES:
            raise ValueError(f"{table}: row {number}: {name} has the suffix of no image")
        label = row.get(label_column)
        rest = {k: v for k, v in row.items() if k not in (path_column, label_column)}
        parts = [part for part in name.parts if part not in (name.anchor, "..")]
        entries.append(
            Entry(
                path=table.parent / name,
                key=key_of(Path(*parts)),
                label=None if label in (None, "") else label,
                metadata=rest,
            )
        )
    labels = [entry.label for entry in entries if entry.label is not None]
    if 0 < len(labels) < len(entries):
        number = next(n for n, entry in enumerate(entries, 1) if entry.label is None)
        raise ValueError(f"{table}: row {number} has no {label_column!r}; label all rows or none")
    if all(is_integer(label) for label in labels):  # labels already
        entries = [replace(e, label=None if e.label is None else int(e.label)) for e in entries]
    else:
        entries = [replace(entry, label=str(entry.label)) for entry in entries]
    return Listing(entries=entries)


def is_integer(label: str | int) -> bool:
    """Whether a label is a number already, perhaps as text."""
    return isinstance(label, int) or (label.isascii() and label.isdigit())


def read_csv(table: Path) -> list[dict[str, Any]]:
    """Read the rows of a CSV file with a header."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        rows = []
        for row in reader:
            if None in row:
                raise ValueError(f"line {reader.line_num} has more fields than the header")
            rows.append(row)
        return rows


def read_jsonl(table: Path) -> list[dict[str, Any]]:
    """Read the rows of a file with a JSON object in each line."""
    rows = []
    # not splitlines, which also cuts at characters that JSON strings may hold, such as U+2028
    for number, line in enumerate(table.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is no JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no object of columns: {line[:40]}")
        rows.append(row)
    return rows


def read_parquet(table: Path) -> list[dict[str, Any]]:
    """Read the rows of a Parquet file, with values that JSON can hold."""
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        message = "Parquet tables need the extra: pip install 'fcmae[parquet]'"
        raise ModuleNotFoundError(message) from error
    rows = parquet.read_table(table).to_pylist()
    return json.loads(json.dumps(rows, default=str))  # dates and the like become text


READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    ".csv": read_csv,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
}
