"""Listing the images of a folder or of a table, each under a key of its own."""

from dataclasses import replace
from pathlib import Path

from data.config import IMAGE_SUFFIXES
from data.making.entries import Listing
from data.making.folders import list_folder
from data.making.tables.folders import tables_of
from data.making.tables.rows import READERS, list_tables
from data.making.walking import described


def find_entries(source: Path, path_column: str, label_column: str | None) -> Listing:
    """List the images of a folder or of a table, sorted by key, and what was not taken.

    Args:
        source: A folder, see `data.making.folders.list_folder`, or a table: CSV with a header, JSON
            (lines, or a list of objects), Parquet or Arrow, or a folder of such tables. Relative
            paths in a table start at its folder, or at the current one if all files are there.
        path_column: The column of a table with the paths.
        label_column: The column with the labels; None for "label", if there is such a column. All
            other columns become metadata.

    Raises:
        ValueError: `source` is neither a folder nor a table, or holds no images, or two images
            have the same key. A folder can be read in two ways. A table is damaged, has no such
            label column, lacks a path, or names a file twice.
        FileNotFoundError: There is no `source`, or a table names a file that does not exist.
        ModuleNotFoundError: A Parquet table needs the extra `parquet`, which is not installed.
    """
    tables = tables_of(source) if source.is_dir() else {}
    if tables:
        listing = list_tables(tables, path_column, label_column)
    elif source.is_dir():
        listing = list_folder(source)
    elif source.suffix.lower() in READERS and source.is_file():
        listing = list_tables({source: None}, path_column, label_column)
    elif not source.exists():
        raise FileNotFoundError(f"{source} does not exist: give a folder of images, or a table")
    else:
        raise ValueError(
            f"{source} is no folder and no table ({', '.join(READERS)}) of images: unpack an"
            " archive first, and give the folder that an image lies in"
        )
    if not listing.entries and source.is_file():
        raise ValueError(f"{source} has no rows: each names an image")
    if not listing.entries:
        kinds = ", ".join(f".{suffix}" for suffix in IMAGE_SUFFIXES)
        others = "; ".join(["", *described(listing.left_out)])
        raise ValueError(f"{source} holds no images; files of the kinds {kinds} are taken{others}")
    by_key: dict[str, Path] = {}
    for entry in listing.entries:
        other = by_key.setdefault(entry.key, entry.path)
        if other is not entry.path:
            raise ValueError(
                f"{other} and {entry.path} would both have the key {entry.key!r}; "
                "rename one of them"
            )
    return replace(listing, entries=sorted(listing.entries, key=lambda entry: entry.key))
