"""The tables of results: mean, spread, the value of each seed, and what has been chosen."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.reporting.entries import Entry, Point
from finetune.reporting.measured import Spread

NAMES = {
    "top5_accuracy": "top-5 accuracy",
    "macro_f1": "macro F1",
    "auc": "AUC",
    "map": "mean average precision",
    "miou": "mean IoU",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R²",
    "spearman": "Spearman's correlation",
}


def name_of(measure: str) -> str:
    """A measure in words."""
    return NAMES.get(measure, measure.replace("_", " "))


def told(spread: Spread | None) -> str:
    """A mean and its standard deviation, as a table shows them."""
    if spread is None:
        return ""
    if spread.mean is None:
        return "not defined"
    # the spaces do not break a line
    spread_of = "" if spread.std is None else f"\u00a0±\u00a0{spread.std:.4f}"
    return f"{spread.mean:.4f}{spread_of}"


def each_seed(spread: Spread) -> str:
    """The value of each seed, to be copied."""
    if not spread.values:
        return "not told"
    return " ".join("not defined" if v is None else f"{v:.4f}" for v in spread.values)


def tables_of(entries: Sequence[Entry], several: bool) -> Iterator[Mapping[str, Any]]:
    """A table for the entries that measure the same: its caption, heads and rows."""
    kinds = dict[tuple[bool, tuple[str, ...]], list[Entry]]()
    for entry in entries:
        trained = entry.method in ("fine-tuning", "segmentation")
        kinds.setdefault((trained, tuple(entry.measures)), []).append(entry)
    for (trained, measures), alike in kinds.items():
        methods = dict.fromkeys(entry.method.partition(":")[0] for entry in alike)
        caption = ", ".join(methods)
        first, *others = measures
        heads = ["result", *(["run"] if several else []), *([] if trained else ["method"])]
        heads += ["start", name_of(first), "each seed", *map(name_of, others)]
        heads += [] if trained else ["held out", "chosen"]
        yield {
            "caption": caption[:1].upper() + caption[1:],
            "heads": [*heads, "learned from", "tested on"],
            "rows": [row_of_entry(entry, several, trained) for entry in alike],
        }


def row_of_entry(entry: Entry, several: bool, trained: bool) -> list[str]:
    """The row of an entry in the table of its kind."""
    first, *others = entry.measures.values()
    row = [entry.name, *([entry.run] if several else []), *([] if trained else [entry.method])]
    row += [entry.start, told(first), each_seed(first), *map(told, others)]
    row += [] if trained else [told(entry.held_out), entry.chosen]
    return row + [f"{n:,}" if n is not None else "" for n in (entry.learned, entry.reported)]


def label_tables(points: Sequence[Point], several: bool) -> Iterator[Mapping[str, Any]]:
    """A table for each result of few labels: a row for each number of labels."""
    results = dict[tuple[str, str, str], list[Point]]()
    for point in points:
        results.setdefault((point.run, point.name, point.metric), []).append(point)
    for (run, name, metric), points in results.items():
        curves = list(dict.fromkeys(point.curve for point in points))
        cells = {(point.label, point.curve): told(point.value) for point in points}
        labels = {point.label: point.samples for point in points}
        yield {
            "caption": f"Few labels: {name_of(metric)} of {name}"
            + (f" ({run})" if several else ""),
            "heads": ["labels", *curves],
            "rows": [
                [f"{label} ({samples:,})", *(cells.get((label, curve), "") for curve in curves)]
                for label, samples in labels.items()
            ],
        }
