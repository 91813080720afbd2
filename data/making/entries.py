"""An image that is to go into a shard, and what a folder or a table was found to hold."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any


@dataclass(frozen=True)
class Cell:
    """Where an image lies in a table whose cells are images: its column, and its row from 0."""

    column: str
    row: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An image that goes into a shard.

    Attributes:
        path: The file; with a cell, that of its table.
        key: The key of the sample.
        label: The name of the class, or its number; None without a label.
        split: The prefix of the shards that it belongs to, where the source says it: "train", "val"
            or "test".
        metadata: The other columns of a table.
        cell: The cell of the table `path` that holds the image, until `unpack` has given it a file.
        mask: The file with the class of each pixel.
    """

    path: Path
    key: str
    label: str | int | None = None
    split: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    cell: Cell | None = None
    mask: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a folder or a table holds.

    Attributes:
        entries: The images.
        left_out: How many files were not taken, by suffix (with its dot, or empty) and reason.
        notes: What was assumed, a line each.
        classes: The names of the classes in the order of their numbers, where the source has them.
        unused: The columns whose cells are bytes and belong to no sample.
    """

    entries: Sequence[Entry]
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    notes: Sequence[str] = ()
    classes: Sequence[str] = ()
    unused: Sequence[str] = ()


def key_of(parts: Sequence[str]) -> str:
    """The key of an image: its path without suffix, and without dots, where webdataset cuts.

    Args:
        parts: The names of the folders that it lies in, and its own.
    """
    return "/".join((*parts[:-1], PurePath(parts[-1]).stem.replace(".", "_")))
