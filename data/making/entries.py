"""An image that is to go into a shard, and what a folder or a table was found to hold."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An image that goes into a shard.

    Attributes:
        path: The file.
        key: The key of the sample.
        label: The name of the class, or its number; None without a label.
        split: The prefix of the shards that it belongs to, where the source says it: "train", "val"
            or "test".
        metadata: The other columns of a table.
    """

    path: Path
    key: str
    label: str | int | None = None
    split: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a folder or a table holds.

    Attributes:
        entries: The images.
        left_out: How many files were not taken, by suffix (with its dot, or empty) and reason.
        notes: What was assumed, a line each.
    """

    entries: Sequence[Entry]
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    notes: Sequence[str] = ()


def key_of(name: Path) -> str:
    """The key of an image: its path without suffix, and without dots, where webdataset cuts."""
    return name.with_name(name.stem.replace(".", "_")).as_posix()
