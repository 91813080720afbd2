"""Files that are written whole or not at all, and are on the disk once they have their name.

A file is written under a temporary name in the same directory until it is complete. Then it is
synced and renamed, and the directory is synced, too: after a kill, a full disk or a loss of power
either the old file is there, or all of the new one.
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
    """Give a temporary path to write a file or directory at, and move it to `path` at the end.

    The directories above `path` are made. Every process gets a temporary path of its own. If the
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
    """Give a temporary path to write at, and move it to `out`, where nothing may be yet.

    Raises:
        FileExistsError: there is something other than an empty directory at `out`.
        OSError: the directory of `out` is not writable.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not written over: remove it or name another")
    with replacing(out) as partial:
        yield partial


def move_into_place(partial: Path, path: Path) -> None:
    """Sync a file or a directory to the disk, then rename it to `path` in one step.

    Both paths have to be on one file system. A file at `path` is replaced.
    """
    for inside in partial.rglob("*"):
        sync(inside)
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Raises:
        OSError: the directory of `path` is not writable.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object, *, compact: bool = False) -> None:
    """Write a JSON file that ends with a newline, whole or not at all.

    Args:
        path: the file.
        content: the content of the file.
        compact: write one line with sorted keys, for programs. Otherwise the text is indented by
            two and the keys keep their order, for people.

    Raises:
        OSError: the directory of `path` is not writable.
    """
    text = json.dumps(content, sort_keys=True) if compact else json.dumps(content, indent=2)
    write_text(path, f"{text}\n")


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file's content, as 64 hexadecimal digits."""
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
