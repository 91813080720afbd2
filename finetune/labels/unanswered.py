"""Image files that have no answer: each is noted with the reason, and the others go on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def noting(failures: list[str], path: Path) -> Iterator[None]:
    """Note why the block has no answer for an image file, in place of raising it.

    Args:
        failures: gets a line.
        path: the image file.

    Raises:
        OSError: of no image, such as a mask that cannot be written.
    """
    try:
        yield
    except ValueError as error:
        failures.append(str(error))
    except OSError as error:  # such as a link to nothing, or a file that none may read
        if error.filename is None:  # it is no image's fault: a mask cannot be written
            raise
        failures.append(f"{path}: {error.strerror}")
