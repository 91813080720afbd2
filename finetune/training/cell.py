"""One run of the protocol of few labels, and its result, which is measured once."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcmae.run.config import completed, differences, to_tree
from fcmae.run.files import text_sha256, write_json
from finetune.training.config import MAY_CHANGE, FewShotConfig, Method

TABLE = (
    "fractions",
    "per_class",
    "seeds",
    "methods",
    "starts",
    "metric",
)  # which runs, not what they are
SUM = "measured_sha256"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of the protocol of few labels."""

    start: str
    """pretrained, random, or the name of a backbone."""
    config: FewShotConfig
    """The config with this start and seed."""
    label: str
    """The row of the table: how many labels, in words."""
    size: float | int
    """A share of each class, or so many samples of each."""
    method: Method
    told: Mapping[str, Any]
    """What the weights tell that the config of an earlier result may have left to them."""

    @property
    def column(self) -> str:
        """The column of the table that the result stands in."""
        return f"{self.start} {self.method}"

    @property
    def out(self) -> Path:
        """The file of its result."""
        size = self.label.replace("%", "pc").replace(" ", "_")
        name = f"{size}-seed{self.config.seed}-{self.start}-{self.method}.json"
        return self.config.out.with_suffix("") / name


def write_result(cell: Cell, contents: Mapping[str, str], measured: Mapping[str, Any]) -> None:
    """Write what was measured of a run, and what of.

    Args:
        cell: the run.
        contents: hashes of the shards.
        measured: the numbers.

    Raises:
        OSError: the file cannot be written.
    """
    made_of = {"config": to_tree(cell.config), "data": contents}
    write_json(cell.out, {**made_of, "measured": measured, SUM: sum_of(measured)})


def read_result(
    cell: Cell, contents: Mapping[str, str], say: Callable[[str], object]
) -> dict[str, Any] | None:
    """What an earlier call has measured of a run; None if it did not get this far.

    Args:
        cell: the run.
        contents: hashes of the shards, which results of earlier versions do not have.
        say: prints a sentence about a damaged file, whose run is made again.

    Raises:
        ValueError: the result was made with another config, or of other data.
    """
    if not cell.out.is_file():
        return None
    try:
        kept = json.loads(cell.out.read_text(encoding="utf-8"))
        measured = kept["measured"]
        written = completed(kept["config"], type(cell.config), cell.told)
        if kept.get(SUM, sum_of(measured)) != sum_of(measured):  # earlier versions wrote none
            raise ValueError("it differs from its SHA-256")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        why = error if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        say(f"{cell.out} is damaged ({why}): the run is made again")
        return None
    may_change = (*MAY_CHANGE, *TABLE)
    differing = differences(written, to_tree(cell.config), ignore=may_change)
    if differing:
        raise ValueError(
            f"{cell.out} was made with another config ({'; '.join(differing)}); choose another"
            " --out"
        )
    if kept.get("data", contents) != contents:
        raise ValueError(
            f"{cell.out} was made of shards with another content; restore them, or choose another"
            " --out"
        )
    return measured


def sum_of(measured: Mapping[str, Any]) -> str:
    """The SHA-256 of numbers that were measured, as JSON holds them."""
    return text_sha256(json.dumps(json.loads(json.dumps(measured)), sort_keys=True))
