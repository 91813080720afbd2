"""Damaged files: what a library raises of one becomes a short line, and what it prints is dropped.

A file is broken or it is not. What the libraries would say besides, as warnings or in their logs,
names no file, and would be repeated by every worker in every epoch.
"""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from data.formats.opened import OversizedImage

LONGEST = 300  # characters of a reason; a library may quote all of a header
ADDRESS = re.compile(r"( at)? \(?0x[0-9a-fA-F]+\)?")  # it differs from run to run
LOGGERS = ("PIL", "tifffile", "imagecodecs", "pydicom", "pillow_heif")
MODULES = r"(PIL|tifffile|imagecodecs|pydicom|pillow_heif|numpy\.lib|data\.formats)\b"


@contextmanager
def named_errors(what: str) -> Iterator[None]:
    """Turn the errors of any decoder into a ValueError that says what could not be decoded.

    Raises:
        OversizedImage, ModuleNotFoundError: As they are.
    """
    try:
        yield
    except (OversizedImage, ModuleNotFoundError):
        raise
    except Exception as error:  # damaged headers lead to every kind there is, AssertionError too
        reason = one_line(str(error)) or type(error).__name__
        raise ValueError(f"{what} cannot be decoded as an image ({reason})") from error


def one_line(text: str) -> str:
    """Text of others as one printable line of LONGEST characters at most, without addresses."""
    printable = "".join(c if c.isprintable() else " " for c in text[: 4 * LONGEST])
    line = ADDRESS.sub("", " ".join(printable.split()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


def silence() -> None:
    """Drop the warnings and logs of the libraries that decode images, in this process."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    for category in (UserWarning, RuntimeWarning):
        warnings.filterwarnings("ignore", category=category, module=MODULES)


silence()
