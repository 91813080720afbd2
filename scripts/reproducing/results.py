"""The results of a set: one small JSON file, which is committed, with an entry for each run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fcmae.run.files import write_json
from fcmae.run.json_files import as_dataclass, read_json


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a finished run has come to."""

    commands: tuple[str, ...]
    """Its command lines."""
    seconds: float
    """The time that it took, over all pieces."""
    processor_seconds: float
    """The seconds that processors spent on it, those of data workers among them."""
    kept: dict[str, Any]
    """What was measured, by name."""


class Results:
    """The entries of a set by the names of its runs, in the file that holds them.

    Args:
        path: the JSON file, which need not exist.

    Raises:
        ValueError: it is damaged; the message names it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries = dict[str, Entry]()
        for name, entry in (read_json(path, dict) if path.is_file() else {}).items():
            try:
                self.entries[name] = as_dataclass(Entry, entry)
            except ValueError as error:
                raise ValueError(f"{path}: the run {name!r}: {error}") from error

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def kept(self, name: str) -> dict[str, Any]:
        """What was measured of a run; nothing of one that is not finished."""
        return self.entries[name].kept if name in self.entries else {}

    def add(self, name: str, entry: Entry) -> None:
        """Add a finished run, and write the file.

        Raises:
            OSError: the file cannot be written.
        """
        self.entries[name] = entry
        write_json(self.path, {name: asdict(e) for name, e in sorted(self.entries.items())})

    def check(self, name: str, commands: Sequence[str]) -> None:
        """Check that the entry of a run was made by these commands.

        Raises:
            ValueError: it was made by others.
        """
        made_by = self.entries[name].commands
        if made_by != tuple(commands):
            raise ValueError(
                f"{self.path} has the run {name!r} of another command ({'; '.join(made_by)});"
                f" it is {'; '.join(commands)} now: take the entry out, and the run is made again"
            )

    @property
    def hours(self) -> float:
        """What all runs took."""
        return sum(entry.seconds for entry in self.entries.values()) / 3600


def rounded(value: Any) -> Any:
    """A value of JSON whose numbers have five digits, which no table shows."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list | tuple) else value
