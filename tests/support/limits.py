"""Limits of this process, for as long as a block runs."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Let each file of this process grow to `size` bytes: a write stops there, as on a full disk.

    The part that fits is written. Whatever pytest captures is short enough.
    """
    usual, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (usual, most))


@contextmanager
def masked(umask: int) -> Iterator[None]:
    """Set the umask."""
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)
