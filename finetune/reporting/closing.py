"""What stays on the terminal when a report is written: a table of its results and one sentence."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fcmae.run.tables import print_table
from fcmae.run.terminal import say
from finetune.reporting.health import verdict_on
from finetune.reporting.record import RunRecord, is_number

BASELINES = {"raw_pixels": "raw pixels", "hog": "HOG", "majority": "most frequent class"}


def print_closing(runs: Sequence[RunRecord], out: Path) -> None:
    """Print a table of the test accuracies that were found, if there are any, and where to look.

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
    found = verdict_on(runs[0]).sentence if len(runs) == 1 else f"{len(runs)} runs are compared"
    say(f"{found}; open {out} in a browser to see more.")


def accuracy_in(spread: Any) -> str:
    """Mean and standard deviation over seeds as text; empty if a result has no such numbers."""
    if not isinstance(spread, dict) or not all(is_number(spread.get(k)) for k in ("mean", "std")):
        return ""
    return f"{spread['mean']:.3f} ± {spread['std']:.3f}"
