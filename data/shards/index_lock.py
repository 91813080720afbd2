"""The lock of a directory's index: one program at a time changes it, and no file is left behind."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fcmae.run.files import writing
from fcmae.run.terminal import say

LOCK = ".index.lock"


@contextmanager
def index_lock(index: Path) -> Iterator[None]:
    """Hold the lock of an index, and wait where another program has it.

    On a file system without locks a line says so, and the index is changed without one.

    Args:
        index: The file that is changed, in a directory that exists.

    Raises:
        OSError: The directory cannot be written.
    """
    path = index.with_name(LOCK)
    while True:
        with writing(index, path):
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            say(
                f"{index.parent} is on a file system without locks ({error.strerror}): write shards"
                " into it, or index them, with one program at a time",
                error=True,
            )
            break
        if is_at(file, path):
            break
        os.close(file)  # who had it has removed it
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # first, so that who waits for it sees that it is gone
        os.close(file)


def is_at(file: int, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), path.stat())
    return False
