"""Records of a run: files of its directory that are read again, whatever has become of them."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TypeVar

from fcmae.run.terminal import say

T = TypeVar("T")


def read_or_set_aside(path: Path, read: Callable[[Path], T]) -> T | None:
    """Read a record; one that is damaged gets another name, which a line tells.

    Args:
        path: the record.
        read: reads it.

    Returns:
        Its content; None if it is damaged, or there is none.

    Raises:
        OSError: it cannot be read or renamed.
    """
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        say(f"{error}; it is kept as {set_aside(path)}")
        return None


def set_aside(path: Path) -> Path:
    """Rename a record, so that a new one can take its place, and return its path from then on.

    Raises:
        OSError: it cannot be renamed.
    """
    names = (path.with_name(f"{path.name}.damaged{number or ''}") for number in count())
    free = next(name for name in names if not name.exists())
    return path.rename(free)
