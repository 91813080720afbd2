"""Walking through a folder: its images, by name or by content, and a count of all other files."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from data.config import IMAGE_SUFFIXES
from data.formats.sniffing import FIRST_BYTES, kind_of

SYSTEM = {  # folders and files that systems put beside one's own, in lower case
    *("@eadir", "__macosx", "#recycle", "$recycle.bin", "lost+found", "system volume information"),
    *("thumbs.db", "desktop.ini"),
}
# they begin as TIFFs do, and what is first in them is a small preview
RAW = (".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
TABLES = (".csv", ".tsv", ".jsonl", ".parquet", ".arrow")
NO_UTF8 = "its name is no UTF-8"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What lies in a folder and its sub-folders.

    Attributes:
        images: The images, sorted, relative to the folder.
        left_out: How many other files there are, by suffix (with its dot, or empty) and reason.
        notes: What was assumed, a line each.
        empty: The folders that hold no image, and lie in one that does, relative to the folder.
    """

    images: list[Path]
    empty: list[Path]
    left_out: Counter[tuple[str, str]]
    notes: list[str]


def find_images(root: Path) -> Found:
    """Find the images of a folder and its sub-folders.

    A file is an image if its suffix is one of IMAGE_SUFFIXES, or if its first bytes are those of
    one; so is a link to nothing with such a suffix, for the reader to name. Hidden files
    and those of systems are left out. A linked folder is followed, but no folder is listed twice,
    so that links in a circle end.

    Args:
        root: The folder.

    Raises:
        OSError: A folder cannot be read.
    """
    images: list[Path] = []
    left_out: Counter[tuple[str, str]] = Counter()
    notes: list[str] = []
    walked: list[Path] = []
    seen = {identity(folder) for folder in root.resolve().parents}  # a link to them is a circle
    folders = [root]
    links: list[Path] = []  # after the folders that they may lead to
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            if identity(folder) in seen:
                notes.append(f"{folder} leads to a folder that is listed already: left out")
                continue
            seen.add(identity(folder))
            walked.append(folder)
            with os.scandir(folder) as listed:
                items = sorted(listed, key=lambda item: item.name)
        except OSError as error:
            raise OSError(
                f"{folder} cannot be listed ({error.strerror}): allow it, or take it out"
            ) from error
        here = folder.relative_to(root)
        for item in items:
            path = folder / item.name
            reason = reason_by_name(item.name)
            if reason is not None:
                inside = files_below(path)
                left_out.update((suffix_of(file), reason) for file in inside)
                if reason == NO_UTF8:
                    notes += [f"{printable(path)} is left out: {reason}, rename it"]
            elif item.is_symlink() and path.is_dir():
                links.append(path)
            elif not item.is_symlink() and item.is_dir():
                folders.append(path)
            else:
                # that of the item is quick, but fails on links in a circle
                is_file = path.is_file() if item.is_symlink() else item.is_file()
                reason = reason_by_content(path, is_file)
                if reason is None:
                    images.append(here / item.name)
                else:
                    left_out[suffix_of(path), reason] += 1
    nearest = {name.parent for name in images}
    filled = nearest.union(*(folder.parents for folder in nearest))
    bare = sorted({folder.relative_to(root) for folder in walked} - filled)
    return Found(
        images=sorted(images),
        empty=[folder for folder in bare if folder.parent in filled],
        left_out=left_out,
        notes=notes,
    )


def reason_by_name(name: str) -> str | None:
    """Why a file or a folder of this name is left out; None if its name is no reason."""
    if not name.isascii() and printable(name) != name:
        return NO_UTF8
    if name.startswith("."):
        return "hidden"
    return "of a system" if name.lower() in SYSTEM else None


def reason_by_content(path: Path, is_file: bool) -> str | None:
    """Why a file is left out; None for an image. Files with odd suffixes alone are opened."""
    if path.suffix.lower()[1:] in IMAGE_SUFFIXES and (is_file or path.is_symlink()):
        return None  # an image, or one that will be named as broken
    if not is_file:
        return "a link to nothing" if path.is_symlink() else "no file"
    if path.suffix.lower() in RAW:
        return "raw data of a camera: develop it into a JPEG, PNG or TIFF"
    if path.suffix.lower() in ARCHIVES:
        return "an archive: unpack it first; shards are used as they are"
    if path.suffix.lower() in TABLES:
        return "a table: give it to fcmae shards make for the labels in it"
    try:
        with path.open("rb") as file:
            kind = kind_of(file.read(FIRST_BYTES))
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "no image" if kind is None else None


def files_below(path: Path) -> list[Path]:
    """All files of a folder that can be listed, or the file itself."""
    if not path.is_dir() or path.is_symlink():
        return [path]
    return [Path(folder, name) for folder, _, names in os.walk(path) for name in names]


def identity(folder: Path) -> tuple[int, int]:
    """The number of a folder in its file system, whatever path leads to it."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def described(left_out: Counter[tuple[str, str]]) -> list[str]:
    """Say what was left out, a line for each suffix and reason."""
    return [
        f"skipped {count} {suffix or 'without a suffix'}: {reason}"
        for (suffix, reason), count in sorted(left_out.items())
    ]


def suffix_of(path: Path) -> str:
    """The suffix of a file with its dot, in lower case, as it can be printed."""
    return printable(path.suffix.lower())


def printable(path: Path | str) -> str:
    """A path as text, in which bytes that are no UTF-8 are written as \\udcXX."""
    return str(path).encode("utf-8", "backslashreplace").decode()
