"""What programs say: lines in which texts of others drive no terminal, and errors in one of them.

Names of files, classes, columns and samples are texts of others: they may hold escape sequences,
line feeds, marks that turn the direction of writing, or bytes that are no UTF-8.
"""

import io
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unicodedata import normalize

from fcmae.run.display import DISPLAY
from fcmae.run.secrets import public

# controls, separators of lines and paragraphs, marks of direction, halves of surrogate pairs
DRIVING = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
LINK = "For further information visit"  # in front of pydantic's links
TRACEBACK = "Traceback (most recent call last)"
NUMBER = re.compile(r"^\[Errno -?\d+\] ")
LONGEST = 300  # letters of a cause
LOST_WORKER = "DataLoader worker"  # what torch's error begins with where one was killed


def visible(text: object) -> str:
    r"""A text in one line, in which what would drive a terminal is written out, as `\x1b`."""
    return DRIVING.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def say(*lines: object, error: bool = False, flush: bool = False) -> None:
    """Print lines, each as one, whatever is in it, to standard output, or to standard error."""
    for line in lines:
        DISPLAY.say(visible(line), sys.stderr if error else sys.stdout, flush=flush)


def told_apart(names: Sequence[str]) -> list[str]:
    """The names, those that look alike with their numbers behind them: cat (0), dog, cat (2)."""
    looks = [normalize("NFC", visible(name)) for name in names]
    alike = Counter(looks)
    told = [
        name if alike[look] == 1 else f"{name} ({i})"
        for i, (name, look) in enumerate(zip(names, looks, strict=True))
    ]
    if len(set(told)) < len(told):  # one was called cat (0) before
        return [f"{name} ({i})" for i, name in enumerate(names)]
    return told


@contextmanager
def beside(what: object, whole: object) -> Iterator[None]:
    """Make something that nothing else depends on, such as a picture.

    An error of it, whatever it is, is told in a line, and costs nothing else.

    Args:
        what: is made, such as the path of the picture.
        whole: the file that has the numbers, and is written already.
    """
    try:
        yield
    except Exception as error:  # of a library, which may raise anything
        why = f"{type(error).__name__}: {' '.join(line_of(error).split())}"
        say(f"{what} cannot be made ({why}); {whole} has the numbers")


def lost_worker(error: Exception) -> bool:
    """Whether torch tells of a data worker that was killed, mostly since memory had run out."""
    return isinstance(error, RuntimeError) and str(error).startswith(LOST_WORKER)


def cause_of(error: Exception) -> str:
    """The kind of an error and what it says, in one line that is not too long."""
    return f"{type(error).__name__}: {line_of(error)}"[:LONGEST]


def line_of(error: Exception) -> str:
    """What an error says, in one line.

    The error of a data worker has the worker's whole traceback in its text, and the message last.
    The number of an OSError, and pydantic's links, tell nobody anything. URLs show no secrets.
    """
    text = public(str(error).strip())
    if lost_worker(error):
        cause = error.__cause__ if isinstance(error.__cause__, RuntimeError) else error
        return f"{str(cause).strip('. ')}; if memory has run out, give fewer --data.workers, or 0"
    lines = text.split("\n")
    if TRACEBACK in text:  # the message follows the last line of code
        last = max((i for i, line in enumerate(lines) if line.startswith(" ")), default=-1)
        text = "\n".join(lines[last + 1 :])
    elif LINK in text:
        text = " ".join(line.strip() for line in lines if not line.strip().startswith(LINK))
    text = text.removeprefix(f"{type(error).__name__}: ") or type(error).__name__
    return visible(NUMBER.sub("", text))


def never_fail() -> None:
    """Let standard output and error write out the letters that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
