"""Where the runs of a set lie, on which data, and how long they are: a dry run has a few steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.reproducing.data_sets import DataSet


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the runs of a set depend on beside the set."""

    folder: Path
    """The directory of its runs."""
    data: Mapping[str, DataSet]
    """The data sets by name, those that the command is about."""
    dry: bool = False
    """Whether runs only have to show that they work."""

    def steps(self, whole: int) -> int:
        """How many steps a run has that takes `whole` of them when it counts."""
        return 2 if self.dry else whole

    def seeds(self, whole: int) -> int:
        """How many repetitions there are, of `whole`."""
        return 1 if self.dry else whole

    def per_class(self, *whole: int) -> dict[str, Any]:
        """The flags for so many labels of each class: 1, 2 and so on in a dry run."""
        counts = tuple(range(1, 1 + len(whole))) if self.dry else whole
        return {"fractions": (), "per_class": counts}
