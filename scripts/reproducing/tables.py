"""Tables of the page of results: cells over seeds, and the place between the marks of a set."""

from collections.abc import Iterable, Sequence
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


def section(name: str, results: Results, text: str, blocks: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a set: its command with its hours, then blocks of lines.

    Args:
        name: of the set.
        results: of the set.
        text: what it is of.
        blocks: its tables, and what is said of them; those without lines are left out.
    """
    lines = [f"`fcmae reproduce --sets {name}`: {text}, {results.hours:.1f} h:"]
    for block in filter(None, blocks):
        lines += ["", *block]
    return lines


def measured(kept: dict[str, Any], key: str, metric: str) -> list[float]:
    """The values of a measure in what is kept of a use, one a draw; none if it is not there."""
    return kept.get(key, {}).get(metric, [])


def scores(
    results: Results,
    name: str,
    metric: str,
    per_class: Sequence[int],
    start: str = "pretrained",
) -> list[list[float]]:
    """The values of a use over draws, for each number of labels; none of a use that has not run.

    Args:
        results: of the set.
        name: of its run; in that of a fine-tuning is `tuned`.
        metric: the measure.
        per_class: numbers of labels of each class.
        start: what it begins with.
    """
    kept = results.kept(name)
    method = "finetune" if "tuned" in name else "probe"
    return [measured(kept, f"{k}_per_class {start} {method}", metric) for k in per_class]


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
