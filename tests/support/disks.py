"""A disk that takes no more, for whoever runs the tests: files of this process have a limit."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Let each file of this process grow to `size` bytes: a write stops there, as on a full disk.

    The part that fits is written. Whatever pytest captures is short enough.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
