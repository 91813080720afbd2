"""What stays on the terminal when a report is written: tables of its results and one sentence."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fcmae.run.tables import print_table
from fcmae.run.terminal import say
from finetune.reporting.entries import BASELINES, Point, found_beside
from finetune.reporting.health import verdict_on
from finetune.reporting.record import RunRecord, is_number
from finetune.reporting.result_tables import name_of


def print_closing(runs: Sequence[RunRecord], out: Path) -> None:
    """Print tables of test accuracies and of few labels, where there are any, and where to look.

    Args:
        runs: of the report.
        out: the HTML file.
    """
    rows: dict[str, dict[str, str]] = {}
    for run in runs:
        before = f"{run.name}: " if len(runs) > 1 else ""
        for result in run.results:
            start, _, method = result.name.rpartition("-")
            if accuracy := accuracy_in(result.content.get("test_accuracy")):
                rows.setdefault(f"{before}{start or method}", {})[method] = accuracy
            for key, title in BASELINES.items():
                if is_number(result.content.get(key)):
                    rows.setdefault(f"{before}{title}", {})[""] = f"{result.content[key]:.3f}"
    methods = sorted({method for cells in rows.values() for method in cells}, reverse=True)
    rows = dict(
        sorted(rows.items(), key=lambda row: "" in row[1])
    )  # what has no encoder comes last
    if rows:
        heads = [method.replace("_", " ") or "linear, without an encoder" for method in methods]
        cells = ([name, *(row.get(m, "") for m in methods)] for name, row in rows.items())
        print_table("Test accuracy, mean ± standard deviation", ["features", *heads], cells)
    for caption, heads, few in few_labels(runs):
        print_table(caption, heads, few)
    found = verdict_on(runs[0]).sentence if len(runs) == 1 else f"{len(runs)} runs are compared"
    say(f"{found}; open {out} in a browser to see more.")


def few_labels(runs: Sequence[RunRecord]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """For each measure of learning from few labels: a caption, columns and rows."""
    points = [point for point in found_beside(runs).points if point.value.mean is not None]
    for metric in dict.fromkeys(point.metric for point in points):
        own = [point for point in points if point.metric == metric]
        samples = {point.label: point.samples for point in own}
        labels = sorted(samples, key=samples.__getitem__)
        rows = dict[str, dict[str, str]]()
        for point in own:
            row = rows.setdefault(title_of(point, own), {})
            row[point.label] = f"{point.value.mean:.3f} ± {point.value.std or 0:.3f}"
        cells = [[title, *(row.get(label, "") for label in labels)] for title, row in rows.items()]
        caption = f"Few labels: {name_of(metric)}, mean ± standard deviation over draws"
        yield caption, ["learned", *labels], cells


def title_of(point: Point, points: Sequence[Point]) -> str:
    """The curve of a point, behind its run and its file where there are others of this name."""
    alike = [other for other in points if other.curve == point.curve]
    names = [point.run] if len({other.run for other in points}) > 1 else []
    names += [point.name] if len({other.name for other in alike}) > 1 else []
    return ": ".join([*names, point.curve])


def accuracy_in(spread: Any) -> str:
    """Mean and standard deviation over seeds as text; empty if a result has no such numbers."""
    if not isinstance(spread, dict) or not all(is_number(spread.get(k)) for k in ("mean", "std")):
        return ""
    return f"{spread['mean']:.3f} ± {spread['std']:.3f}"
