"""An image that is to go into a shard."""

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
        metadata: The other columns of a table.
    """

    path: Path
    key: str
    label: str | int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def key_of(name: Path) -> str:
    """The key of an image: its path without suffix, and without dots, where webdataset cuts."""
    return name.with_name(name.stem.replace(".", "_")).as_posix()
