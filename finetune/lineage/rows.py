"""What the systems have come to: what was measured of each, and the results of its runs.

Those of the page of results lie in one file beside it, so that its runs can be made in several
checkouts: what one has made, the next need not make again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcmae.run.config import differences, to_tree
from fcmae.run.files import write_json
from fcmae.run.json_files import read_json
from fcmae.run.recipes import RECIPES
from finetune.labels.results import spread
from finetune.lineage.config import MAY_CHANGE, LineageConfig
from finetune.lineage.costs import measured_in
from finetune.lineage.runs import ORIGINS, SECONDS, Origin, Start, accuracy_of, starts
from finetune.lineage.systems import SYSTEMS, System

RESULTS = RECIPES / "results" / "lineage.json"  # of the page of results


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


def rows_of(config: LineageConfig, told: Mapping[str, Row] | None = None) -> list[Row]:
    """Read what was measured of all systems, whichever this call was about.

    Args:
        config: of the command.
        told: what is known from elsewhere; what lies in the directory takes its place.

    Raises:
        ValueError: a file is damaged.
    """
    rows = dict(told or {})
    for key, system in SYSTEMS.items():
        path = measured_in(config, system)
        if path.is_file():
            scores: dict[Origin, Score] = {
                start.origin: score
                for start in starts(config, [system])
                if (score := score_of(start)) is not None
            }
            before = rows[key].scores if key in rows else {}
            costs = read_json(path, dict)
            rows[key] = Row(system=system, costs=costs, scores={**before, **scores})
    return [rows[key] for key in SYSTEMS if key in rows]


def keep(config: LineageConfig, rows: Sequence[Row], path: Path = RESULTS) -> None:
    """Write rows to a file, with their protocol.

    Raises:
        OSError: the file cannot be written.
    """
    protocol = {key: value for key, value in to_tree(config).items() if key not in MAY_CHANGE}
    systems = {row.system.key: numbers(row) for row in rows}
    write_json(path, {"protocol": protocol, "systems": systems})


def kept(config: LineageConfig, path: Path = RESULTS) -> dict[str, Row]:
    """Read the rows that `keep` has written, by system; none of another protocol.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.is_file():
        return {}
    tree = read_json(path, dict)
    if differences(tree["protocol"], to_tree(config), ignore=MAY_CHANGE):
        return {}
    return {key: row_of(SYSTEMS[key], found) for key, found in tree["systems"].items()}


def has(rows: Mapping[str, Row], start: Start) -> bool:
    """Whether rows have all final runs of a start."""
    row = rows.get(start.system.key)
    score = row.scores.get(start.origin) if row else None
    return score is not None and len(score.accuracies) >= start.config.seeds


def numbers(row: Row) -> dict[str, Any]:
    """All numbers of a system, as `row_of` reads them."""
    scores = {
        origin: {**vars(score), "mean": score.mean, "std": score.std}
        for origin, score in row.scores.items()
    }
    return {"name": row.system.name, **row.costs, **scores}


def row_of(system: System, numbers: Mapping[str, Any]) -> Row:
    """The row that has these numbers."""
    scores: dict[Origin, Score] = {
        origin: score_in(numbers[origin]) for origin in ORIGINS if origin in numbers
    }
    costs = {name: number for name, number in numbers.items() if name not in ("name", *scores)}
    return Row(system=system, costs=costs, scores=scores)


def score_in(numbers: Mapping[str, Any]) -> Score:
    """The score among the numbers of a system."""
    return Score(accuracies=numbers["accuracies"], rate=numbers["rate"], hours=numbers["hours"])


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
