"""The lock of a directory's index: one program at a time changes it, and no file is left behind."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = ".index.lock"


@contextmanager
def index_lock(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory's index, and wait where another program has it.

    On a file system without locks a line says so, and the index is changed without one.

    Raises:
        OSError: The directory cannot be written.
    """
    path = directory / LOCK
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            while not is_at(file, path):  # who had it has removed it
                os.close(file)
                file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            print(
                f"{directory} is on a file system without locks ({error.strerror}): write shards"
                " into it, or index them, with one program at a time",
                file=sys.stderr,
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(file)


def is_at(file: int, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), path.stat())
    return False
