"""What the systems have come to: what was measured of each, and the results of its runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fcmae.run.json_files import read_json
from finetune.labels.results import spread
from finetune.lineage.config import LineageConfig
from finetune.lineage.costs import measured_in
from finetune.lineage.runs import SECONDS, Origin, Start, accuracy_of, starts
from finetune.lineage.systems import SYSTEMS, System


@dataclass(frozen=True, kw_only=True)
class Score:
    """The final runs of a start of a system."""

    accuracies: Sequence[float]
    """On the test data, one a seed."""
    rate: float
    """The learning rate that was chosen."""
    hours: float
    """What its runs have taken, with those that chose the rate, and with pretraining."""

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return spread(self.accuracies)["mean"]

    @property
    def std(self) -> float:
        """The standard deviation over seeds."""
        return spread(self.accuracies)["std"]

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.std:.3f}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A system, and all that is known of it here."""

    system: System
    costs: Mapping[str, Any]
    """As `finetune.lineage.costs.measure` writes them."""
    scores: Mapping[Origin, Score]
    """Of its starts whose final runs are all there."""

    @property
    def hours(self) -> float:
        """What all its runs have taken."""
        return sum((score.hours for score in self.scores.values()), 0.0)

    def cell(self, origin: Origin) -> str:
        """The accuracy of a start, as tables show it."""
        if origin == "pretrained" and not self.system.encoder:
            return "not pretrained"
        return str(self.scores[origin]) if origin in self.scores else "not run"


def rows_of(config: LineageConfig) -> list[Row]:
    """Read what was measured of all systems, whichever this call was about.

    Raises:
        ValueError: a file is damaged.
    """
    rows = list[Row]()
    for system in SYSTEMS.values():
        path = measured_in(config, system)
        if path.is_file():
            scores: dict[Origin, Score] = {
                start.origin: score
                for start in starts(config, [system])
                if (score := score_of(start)) is not None
            }
            rows.append(Row(system=system, costs=read_json(path, dict), scores=scores))
    return rows


def score_of(start: Start) -> Score | None:
    """Read the final runs of a start; None if some are missing.

    Raises:
        ValueError: a file is damaged.
    """
    results = [start.final(seed) for seed in range(start.config.seeds)]
    rate = start.rate()
    if rate is None or not all(result.is_file() for result in results):
        return None
    seconds = read_json(start.folder / SECONDS, dict)
    mine = (start.origin, "pretraining" if start.origin == "pretrained" else start.origin)
    return Score(
        accuracies=[accuracy_of(result) for result in results],
        rate=rate,
        hours=sum(s for name, s in seconds.items() if name.startswith(mine)) / 3600,
    )
