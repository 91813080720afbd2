"""Files that are written whole or not at all, and are on the disk once they have their name.

What is written lies beside its place, under a temporary name, until it is complete. Then it is
synced and renamed, and the directory is synced, too: a kill, a full disk or a loss of power leaves
what was there before, or all of the new.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write a file or a directory at, which takes the place of `path` at the end.

    The directories above `path` are made. No two processes get the same path to write at. If the
    block raises, what it wrote is removed and `path` stays as it is.

    Raises:
        OSError: the directory of `path` is not writable; or `path` is a directory with files in it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as directory:
        # torch.save writes this name without its last suffix into the file
        partial = Path(directory) / f"{path.name}.tmp"
        yield partial
        move_into_place(partial, path)


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """As `replacing`, for what must not be written over.

    Raises:
        FileExistsError: there is something at `out`, other than an empty directory.
        OSError: the directory of `out` is not writable.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not written over: remove it or name another")
    with replacing(out) as partial:
        yield partial


def move_into_place(partial: Path, path: Path) -> None:
    """Have a file or a directory on the disk, then give it the name `path` in one step.

    Both have to lie on one file system. A file at `path` is replaced.
    """
    for inside in partial.rglob("*"):
        sync(inside)
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; raises as `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object, *, compact: bool = False) -> None:
    """Write a JSON file that ends with a newline, whole or not at all; raises as `replacing`.

    Args:
        path: the file.
        content: what it is to hold.
        compact: whether it is one line with sorted keys, for programs. Otherwise it is indented by
            two and the keys keep their order, for people.
    """
    text = json.dumps(content, sort_keys=True) if compact else json.dumps(content, indent=2)
    write_text(path, f"{text}\n")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_sha256(text: str) -> str:
    """The SHA-256 of a text in UTF-8, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def sync(path: Path) -> None:
    """Wait until a file's content, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
