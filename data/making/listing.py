"""Listing the images of a flat folder, of a folder with one sub-folder a class, or of a table."""

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from data.config import IMAGE_SUFFIXES
from fcmae.run.files import text_sha256


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An image that goes into a shard.

    Attributes:
        path: The file.
        key: The key of the sample.
        label: The name of the class, or its number; None without a label.
        metadata: The other columns of a table.
    """

    path: Path
    key: str
    label: str | int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def find_entries(source: Path, path_column: str, label_column: str | None) -> list[Entry]:
    """List the images of a folder or of a table, sorted by key.

    Args:
        source: A folder, whose hidden files and folders are left out, or a table: CSV with a
            header, JSON lines, or Parquet. Relative paths in a table start at its folder.
        path_column: The column of a table with the paths.
        label_column: The column with the labels; None for "label", if there is such a column. All
            other columns become metadata.

    Raises:
        ValueError: `source` is neither a folder nor a table, or holds no images, or two images
            have the same key. A folder has images both in itself and in its sub-folders. A table
            is damaged, has no such label column, or lacks a path or some of the labels.
        FileNotFoundError: A table names a file that does not exist.
        ModuleNotFoundError: A Parquet table needs the extra `parquet`, which is not installed.
    """
    if source.is_dir():
        entries = list_folder(source)
    elif source.suffix.lower() in READERS and source.is_file():
        entries = list_table(source, path_column, label_column)
    else:
        raise ValueError(f"{source} is no folder and no table ({', '.join(READERS)}) of images")
    if not entries:
        kinds = ", ".join(f".{suffix}" for suffix in IMAGE_SUFFIXES)
        raise ValueError(f"{source} holds no images; files named {kinds} are taken")
    by_key: dict[str, Path] = {}
    for entry in entries:
        other = by_key.setdefault(entry.key, entry.path)
        if other is not entry.path:
            raise ValueError(
                f"{other} and {entry.path} would both have the key {entry.key!r}; "
                "rename one of them"
            )
    return sorted(entries, key=lambda entry: entry.key)


def label_entries(
    entries: list[Entry], classes: list[str], where: Path
) -> tuple[list[Entry], list[str]]:
    """Turn the names of classes into numbers. Labels that are integers stay.

    Args:
        entries: The images.
        classes: The names in the order of their numbers; if empty, the sorted names of `entries`.
        where: The file that holds `classes`, for errors.

    Returns:
        The entries with integer labels, and the names; none if the labels were integers already.

    Raises:
        ValueError: The class of an entry is not in `classes`.
    """
    names = sorted({entry.label for entry in entries if isinstance(entry.label, str)})
    known = classes or names
    place = {name: number for number, name in enumerate(known)}
    unknown = [name for name in names if name not in place]
    if unknown:
        raise ValueError(
            f"{unknown[0]!r} is no class of {where}; shards in one directory share their "
            "labels: rename it or choose another directory"
        )
    labelled = [
        replace(entry, label=place[entry.label]) if isinstance(entry.label, str) else entry
        for entry in entries
    ]
    return labelled, known if names else []


def shuffle(entries: Iterable[Entry], seed: int) -> list[Entry]:
    """Order entries by a hash of the seed and their keys, which mixes the classes."""
    return sorted(entries, key=lambda entry: text_sha256(f"{seed}/{entry.key}"))


def split(
    entries: list[Entry], share: float, how: Literal["hashed", "stratified"]
) -> tuple[list[Entry], list[Entry]]:
    """Split off about `share` of the entries.

    Args:
        entries: The images.
        share: The share to split off, between 0 and 1.
        how: "hashed" goes by a hash of the key, so an image keeps its side when others are added.
            "stratified" takes the share of each class, by the lowest hashes.

    Returns:
        The rest, and the entries that were split off, both in the order of `entries`.

    Raises:
        ValueError: Entries to be stratified have no labels, or one side would be empty.
    """
    if how == "hashed":
        chosen = {
            entry.key for entry in entries if int(text_sha256(entry.key)[:13], 16) < share * 16**13
        }
    else:
        by_class = defaultdict(list)
        for entry in entries:
            if entry.label is None:
                raise ValueError("--split stratified needs labels; take --split hashed")
            by_class[entry.label].append(entry.key)
        chosen = set()
        for keys in by_class.values():
            chosen.update(sorted(keys, key=text_sha256)[: round(share * len(keys))])
    if not 0 < len(chosen) < len(entries):
        raise ValueError(f"--val {share} of {len(entries)} images leaves one side empty")
    rest = [entry for entry in entries if entry.key not in chosen]
    return rest, [entry for entry in entries if entry.key in chosen]


def key_of(name: Path) -> str:
    """The key of an image: its path without suffix, and without dots, where webdataset cuts."""
    return name.with_name(name.stem.replace(".", "_")).as_posix()


def list_folder(root: Path) -> list[Entry]:
    """List the images of a folder; see `find_entries`."""
    names = [
        path.relative_to(root)
        for path in root.rglob("*")
        if path.suffix.lower()[1:] in IMAGE_SUFFIXES and path.is_file()
    ]
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    flat = sum(len(name.parts) == 1 for name in names)
    if 0 < flat < len(names):
        raise ValueError(
            f"{root} holds {flat} images itself and {len(names) - flat} in sub-folders; put every "
            "image into the sub-folder of its class, or all of them into the folder itself"
        )
    return [
        Entry(path=root / name, key=key_of(name), label=None if flat else name.parts[0])
        for name in names
    ]


def list_table(table: Path, path_column: str, label_column: str | None) -> list[Entry]:
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
        return [replace(e, label=None if e.label is None else int(e.label)) for e in entries]
    return [replace(entry, label=str(entry.label)) for entry in entries]


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
