"""Tables of the page of results: cells over seeds, and the place between the marks of a set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.labels.results import spread
from scripts.reproducing.results import Results

PAGE = Path("scripts/recipes/README.md")


def cell(values: Sequence[float] | None) -> str:
    """Mean and standard deviation over seeds; `not run` of none, and no deviation of one."""
    if not values:
        return "not run"
    of_seeds = spread(values)
    if len(values) == 1:
        return f"{of_seeds['mean']:.3f}"
    return f"{of_seeds['mean']:.3f} ± {of_seeds['std']:.3f}"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a table."""
    return [
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(f"| {' | '.join(map(str, row))} |" for row in rows),
    ]


def caption(name: str, results: Results, text: str) -> str:
    """The line above a table: its command, what it is of, and its hours."""
    return f"`fcmae reproduce --sets {name}`: {text}, {results.hours:.1f} h:"


def measured(kept: dict[str, Any], key: str, metric: str) -> list[float]:
    """The values of a measure in what is kept of a use, one a draw; none if it is not there."""
    return kept.get(key, {}).get(metric, [])


def between_marks(page: str, name: str, lines: Sequence[str]) -> str:
    """Put lines between the marks of a set in a page.

    Raises:
        ValueError: the page has no place for them.
    """
    begin, end = (f"<!-- reproduce {name}: {mark} -->" for mark in ("begin", "end"))
    before, opened, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ValueError(f"{PAGE} lacks the lines {begin} and {end}, between which a table goes")
    return "\n".join((before + begin, "", *lines, "", end + after))
