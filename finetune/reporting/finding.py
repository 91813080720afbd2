"""What a rule is, and what it finds of a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from finetune.reporting.record import RunRecord

Severity = Literal["fault", "warning", "note"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a rule says of a run."""

    severity: Severity
    """A fault ended or spoiled the run, a warning is worth a look, a note is good to know."""
    sentence: str
    """What was found."""
    help: str
    """What would help; empty where nothing has to be done."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule, as the report lists it."""

    name: str
    """What it is called."""
    text: str
    """When it speaks."""
    look: Callable[[RunRecord], Finding | None]
    """Looks at a run; None if there is nothing to say."""


def values(run: RunRecord, key: str) -> Sequence[float]:
    """The finite numbers that the lines of metrics have of this name."""
    return [value for _, value in run.series(key)]
