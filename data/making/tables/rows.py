"""Listing the images that tables name or hold, with their labels and what else is known of them."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.config import IMAGE_SUFFIXES
from data.formats.sniffing import FIRST_BYTES, kind_of
from data.making.entries import Cell, Entry, Listing, key_of
from data.making.folders import SPLITS
from data.making.labels import listed
from data.making.tables.arrow import read_columns
from data.making.tables.files import TEXTS, Rows
from data.making.tables.labels import is_missing, refuse_lists, understand_labels
from data.making.tables.paths import find_files

SPLIT = "split"  # a column of this name
READERS = TEXTS | {".parquet": read_columns, ".arrow": read_columns}


def list_tables(
    tables: Mapping[Path, str | None], path_column: str, label_column: str | None
) -> Listing:
    """List the images of tables that have the same columns and share the names of their classes.

    Args:
        tables: The tables, each with the split of its rows, or None.
        path_column: See `find_entries`.
        label_column: See `find_entries`.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError: See `find_entries`.
    """
    column = label_column or "label"
    entries: list[Entry] = []
    labels: list[Any] = []
    notes: list[str] = []
    classes: Sequence[str] | None = None
    labelled = False
    unused: dict[str, None] = {}
    for table, part in tables.items():
        read = read_rows(table)
        columns = dict.fromkeys(name for row in read.rows for name in row)
        if label_column is not None and columns and column not in columns:
            raise ValueError(
                f"{table} has no column {column!r}; its columns are {', '.join(columns)}: name"
                " the one with the labels (--label-column)"
            )
        labelled |= column in columns
        own = [row.get(column) for row in read.rows]
        refuse_lists(own, column, table)
        names = read.classes.get(column, ())
        if classes is not None and names != classes:
            raise ValueError(f"{table} has other names of classes than the tables before it")
        classes = names
        labels += [name_of(label, names) for label in own] if names else own
        images, assumed = list_rows(table, read, path_column)
        notes += [*read.notes, *assumed]
        splits = {} if part else splits_of(read.rows, table)
        if splits:
            notes.append(f"{table}: the column {SPLIT!r} says which shards an image goes into")
        used = {entry.cell.column for entry in images if entry.cell}
        unused |= dict.fromkeys(name for name in read.pictures if name not in used)
        for entry in images:
            rest = {k: v for k, v in entry.metadata.items() if k != column}
            key = f"{part}/{entry.key}" if part and entry.cell else entry.key
            split = splits.get(str(entry.metadata.get(SPLIT)), part)
            entries.append(replace(entry, key=key, split=split, metadata=rest))
    refuse_repeated(entries)
    others = list({name: None for entry in entries for name in entry.metadata})
    if not labelled and others:
        notes.append(
            f"no column {column!r}: the images have no labels; --label-column may name one of"
            f" {listed(others)}"
        )
    if labelled:
        labels, assumed = understand_labels(labels, column, bool(classes))
        notes += assumed
        entries = [replace(e, label=label) for e, label in zip(entries, labels, strict=True)]
    return Listing(entries=entries, notes=notes, classes=classes or (), unused=list(unused))


def splits_of(rows: Sequence[Mapping[str, Any]], table: Path) -> dict[str, str]:
    """The splits that the values of the column SPLIT name.

    Returns:
        A prefix of shards for each value; none if there are not two splits.

    Raises:
        ValueError: Other values stand beside those of two splits.
    """
    splits = {value: SPLITS.get(value.lower()) for value in {str(row.get(SPLIT)) for row in rows}}
    named = {value: split for value, split in splits.items() if split}
    if len(set(named.values())) < 2:
        return {}
    if other := next((value for value, split in splits.items() if not split), None):
        raise ValueError(
            f"{table}: the column {SPLIT!r} names {listed(sorted(named))}, but also {other!r},"
            f" which is none of {', '.join(SPLITS)}: change it, or rename the column"
        )
    return named


def read_rows(table: Path) -> Rows:
    """Read the rows of a table; its suffix, one of READERS, says what it is.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is damaged or no such table, or two of its columns have one name.
        ModuleNotFoundError: The extra `parquet` is not installed, and the table needs it.
    """
    try:
        return READERS[table.suffix.lower()](table)
    except (ValueError, csv.Error) as error:  # those of pyarrow are ValueErrors, too
        raise ValueError(f"{table} is damaged or no such table: {error}") from error


def list_rows(table: Path, read: Rows, path_column: str) -> tuple[list[Entry], list[str]]:
    """The images of the rows of a table, with all its other columns as metadata.

    Returns:
        The images, without labels, and a line for each thing that was assumed.

    Raises:
        FileNotFoundError, ValueError: See `find_entries`.
    """
    known = dict.fromkeys(name for row in read.rows for name in row)
    if path_column in read.pictures or (path_column not in known and len(read.pictures) == 1):
        pictures = path_column if path_column in read.pictures else read.pictures[0]
        stem = table.stem.replace(".", "_")
        entries = [
            Entry(
                path=table,
                cell=Cell(pictures, number),
                key=f"{stem}/{number:06d}",
                metadata=row,
            )
            for number, row in enumerate(read.rows)
        ]
        return entries, [f"{table}: its images are the cells of {pictures!r}"]
    for number, row in enumerate(read.rows, 1):
        if is_missing(row.get(path_column)):
            raise ValueError(
                f"{table}: row {number} has no {path_column!r}; its columns are"
                f" {', '.join([*known, *read.pictures])}:"
                " name the one with the paths (--path-column), or write a header if there is none"
            )
    found, base, notes = find_files([row[path_column] for row in read.rows], table)
    entries = []
    for number, (row, name) in enumerate(zip(read.rows, found, strict=True), 1):
        if name.suffix.lower()[1:] not in IMAGE_SUFFIXES:
            with (base / name).open("rb") as file:
                if kind_of(file.read(FIRST_BYTES)) is None:
                    raise ValueError(f"{table}: row {number}: {name} is no image that is known")
        parts = [part for part in name.parts if part not in (name.anchor, "..")]
        rest = {k: v for k, v in row.items() if k != path_column}
        entries.append(Entry(path=base / name, key=key_of(parts), metadata=rest))
    return entries, notes


def name_of(label: Any, names: Sequence[str]) -> str | None:
    """The name of a class by its number; None for -1, by which `datasets` means no label.

    Raises:
        ValueError: There is no such class.
    """
    if is_missing(label) or label == -1:
        return None
    number = int(label)
    if not 0 <= number < len(names):
        raise ValueError(f"label {label} is beyond the {len(names)} names of classes of its table")
    return names[number]


def refuse_repeated(entries: Sequence[Entry]) -> None:
    """Check that no file comes twice.

    Raises:
        ValueError: Two rows name one file.
    """
    rows: dict[str, int] = {}
    for number, entry in enumerate(entries, 1):
        if entry.cell is None:
            other = rows.setdefault(os.path.normpath(entry.path), number)
            if other != number:
                raise ValueError(
                    f"rows {other} and {number} both name {entry.path}: an image has one row;"
                    " make one of them, with a list in a column of another name than `label` if it"
                    " has several labels (--task.kind labels)"
                )
