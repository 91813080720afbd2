"""Finding the files that a table names, relative to its folder or to the current one."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from data.config import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Finder:
    """Finds files by name in a folder, whose sub-folders are listed once each.

    Attributes:
        base: The folder.
        notes: What was assumed so far.
    """

    base: Path
    notes: dict[str, None] = field(default_factory=dict)
    stems: dict[Path, dict[str, list[str]]] = field(default_factory=dict)

    def find(self, name: Path) -> Path | None:
        """The name of the file that is there, or None.

        It is the name itself, or with its backslashes as slashes, or with the suffix of the one
        image that has the name as its stem.

        Raises:
            ValueError: Several images have the name as their stem.
        """
        if (self.base / name).is_file():
            return name
        if "\\" in str(name):
            self.notes[r"its paths are of Windows: \ is read as /"] = None
            return self.find(Path(str(name).replace("\\", "/")))
        found = self.stems_of(name.parent).get(name.name, [])
        if len(found) > 1:
            raise ValueError(f"{name} may be {found[0]} or {found[1]}: write the suffix, too")
        if found:
            self.notes["its paths lack suffixes: those of the one image of each name"] = None
            return name.with_name(found[0])
        return None

    def stems_of(self, folder: Path) -> dict[str, list[str]]:
        """The names of the images in a folder, by stem."""
        if folder not in self.stems:
            names = defaultdict(list)
            if (self.base / folder).is_dir():
                for path in sorted((self.base / folder).iterdir()):
                    if path.suffix.lower()[1:] in IMAGE_SUFFIXES:
                        names[path.stem].append(path.name)
            self.stems[folder] = names
        return self.stems[folder]


def find_files(cells: Sequence[Any], table: Path) -> tuple[list[Path], Path, list[str]]:
    """Find the files that the rows of a table name.

    Args:
        cells: A path for each row. Relative paths start at the folder of the table, or else at the
            current one if all are found there. A path may be that of Windows, begin with ~ or
            file://, or lack the suffix of the file.
        table: The table.

    Returns:
        The path of each row as found, the folder at which relative ones start, and a line for each
        thing that was assumed.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A path is the address of something that is not on this machine, or several files
            may be meant.
    """
    names = []
    for number, cell in enumerate(cells, 1):
        try:
            names.append(local_name(str(cell).strip()))
        except ValueError as error:
            raise ValueError(f"{table}: row {number} {error}") from error
    missing = None
    for base in (table.parent, Path()):
        finder = Finder(base)
        found = []
        for number, name in enumerate(names, 1):
            try:
                path = finder.find(name)
            except ValueError as error:
                raise ValueError(f"{table}: row {number}: {error}") from error
            if path is None:
                missing = missing or (number, name)
                break
            found.append(path)
        else:
            notes = [f"{table}: {note}" for note in finder.notes]
            if base != table.parent:
                notes.append(f"{table}: its paths start at the current directory, not at its own")
            return found, base, notes
    assert missing is not None  # no folder had all files
    number, name = missing
    raise FileNotFoundError(
        f"{table}: row {number} names {name}, which does not exist; paths start at the folder of"
        " the table, or at the current one"
    )


def local_name(text: str) -> Path:
    """The path that a cell holds, which may begin with ~ or file://.

    Raises:
        ValueError: It is an address, of a web server for example.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text)
    if scheme is None:
        return Path(text).expanduser() if text.startswith("~/") else Path(text)
    if scheme[1].lower() != "file":
        raise ValueError(f"names {text}, an address: download the files first, and name those")
    return Path(unquote(urlsplit(text).path))
