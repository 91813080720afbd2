"""Files that are written whole or not at all, and are on the disk once they have their name.

A file is written in a temporary directory beside its place until it is complete. Then it is synced
and renamed, and the directory is synced, too: after a kill, a full disk or a loss of power either
the old file is there, or all of the new one. Files and directories have the rights that the umask
leaves to new ones, also where they replace others.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

WAYS_OUT = {
    errno.ENOSPC: "make room on its disk, or name a place on another one",
    errno.EDQUOT: "make room in your quota, or name a place on another disk",
    errno.EFBIG: "raise the limit of the size of files, which `ulimit -f` shows",
}
LONGEST = 40  # letters of a name in that of its temporary directory


@contextmanager
def writing(path: Path, *within: Path) -> Iterator[None]:
    """Name `path` in an error of writing inside, whichever library raises it.

    Libraries tell no name, or a temporary one. An error that tells of another file passes as it is.

    Args:
        path: the file or directory that is written.
        within: temporary files and directories that stand for it.

    Raises:
        OSError: `path` cannot be written; the message says why, and what to do.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = number_of(error)
        named = getattr(error, "filename", None)
        if number is None or not (named is None or stands_for(named, path, within)):
            raise
        way_out = WAYS_OUT.get(number, "name a place where you can write")
        reason = f"{path} cannot be written: {os.strerror(number)}; {way_out}"
        told = type(OSError(number, ""))(reason)  # of the class for this number
        told.errno = number
        raise told from error


def number_of(error: Exception) -> int | None:
    """The number of a system's error; None of an error that is none. Rust tells it in the text."""
    if isinstance(error, OSError):
        return error.errno
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else None


def stands_for(named: object, path: Path, within: tuple[Path, ...]) -> bool:
    """Whether an error that names a file, or a descriptor, is about `path` or its directories."""
    if not isinstance(named, str | os.PathLike):
        return True
    other = Path(named)
    return path.is_relative_to(other) or any(other.is_relative_to(place) for place in within)


@contextmanager
def replacing(path: Path, staging: Path | None = None) -> Iterator[Path]:
    """Give a temporary path to write a file or directory at, and move it to `path` at the end.

    The temporary path ends in the name of `path`, and every process gets one of its own. The
    directories above `path` are made. If the block raises, what it wrote is removed and `path`
    stays as it is.

    Args:
        path: the file or directory that is written.
        staging: a directory on the same file system, which what a kill leaves is removed with; by
            default that of `path`.

    Raises:
        OSError: `path` cannot be written, see `writing`; or it is a directory with files in it, a
            device or a pipe.
    """
    unique = f".{path.name[:LONGEST]}.{secrets.token_hex(4)}.tmp"
    folder = (staging or path.parent) / unique
    with writing(path, folder):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError(f"{path} is a device or a pipe, which no file replaces: name a file")
        if not path.parent.exists():  # else what follows says best what is wrong with it
            path.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        try:
            partial = folder / path.name
            yield partial
            for inside in (partial, *partial.rglob("*")):
                give_rights(inside, folder.stat().st_mode)
            move_into_place(partial, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def give_rights(path: Path, usual: int) -> None:
    """Give a file or directory the rights that it lacks: some libraries give them to one user only.

    Args:
        path: the file or directory.
        usual: the mode of a new directory, which has all rights that the umask leaves.
    """
    mode = path.stat().st_mode
    lacking = usual & (0o777 if path.is_dir() else 0o666) & ~mode
    if lacking:
        path.chmod(stat.S_IMODE(mode | lacking))


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


def spare_folder() -> Path | None:
    """Make a folder for caches where their usual place cannot be written.

    It lies in the system's temporary directory and belongs to this user alone, since what is read
    out of a cache is believed. None if there is no room for it, or somebody else has the name.
    """
    folder = Path(tempfile.gettempdir()) / f"fcmae-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return folder if ours and not status.st_mode & 0o077 and os.access(folder, os.W_OK) else None


def sync(path: Path) -> None:
    """Wait until a file's content, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
