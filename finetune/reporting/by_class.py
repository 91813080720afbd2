"""What results measure of each class, as rows of charts: bars, the confusion matrix, worst pairs.

The page shows one result at a time, which a menu chooses: all rows have its title, `result`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.reporting.entries import Entry
from finetune.reporting.measured import Classes, Matrix

MOST_BARS = 60  # classes, those with the lowest values
MOST_SQUARE = 200  # classes of a matrix that is drawn
MOST_CELLS = 5_000  # of a matrix, the largest counts
MOST_ALL = 30_000  # cells of all matrices of a report
MOST_PAIRS = 12  # that are confused most
WORDS = {
    "recall": "accuracy of the class",
    "average_precision": "average precision of the label",
    "iou": "intersection over union (IoU)",
}


@dataclass(frozen=True, kw_only=True)
class ByClass:
    """The tables and the menu of the classes of all results."""

    menu: Sequence[Mapping[str, Any]]
    """For each result its title, what its bars are, and sentences on what is left out."""
    bars: Sequence[Mapping[str, Any]]
    """A row for each class of each result."""
    cells: Sequence[Mapping[str, Any]]
    """A row for each true class, with its answers as places of classes and their counts."""
    pairs: Sequence[Mapping[str, Any]]
    """A row for each pair of classes that are confused."""


def by_class(entries: Sequence[Entry], several: bool) -> ByClass:
    """Make the tables of what is measured of each class.

    Args:
        entries: results, some of which measure classes.
        several: whether they are of several runs, which the menu then names.
    """
    menu, bars, cells, pairs = (list[Mapping[str, Any]]() for _ in range(4))
    left = MOST_ALL
    for entry in entries:
        classes = entry.classes
        if classes is None:
            continue
        title = f"{entry.name}: {entry.method}" + (f" ({entry.run})" if several else "")
        matrix = total_of(classes.matrices)
        counts = len(largest(matrix))
        drawn = 0 < len(matrix) <= MOST_SQUARE and min(counts, MOST_CELLS) <= left
        bars += bars_of(title, classes)
        confused = pairs_of(title, matrix)
        pairs += confused
        if drawn:
            made = cells_of(title, len(menu), matrix)
            left -= sum(len(row["counts"]) for row in made)
            cells += made
        menu.append(
            {
                "title": title,
                "measure": WORDS[classes.measure],
                "classes": len(matrix) if drawn else 0,
                "bars": len(classes.spreads),
                "pairs": len(confused),
                "notes": notes_on(classes, matrix, drawn, counts),
            }
        )
    return ByClass(menu=menu, bars=bars, cells=cells, pairs=pairs)


def notes_on(classes: Classes, matrix: Matrix, drawn: bool, counts: int) -> list[str]:
    """What is left out of the charts of a result, in sentences."""
    notes = list[str]()
    if len(classes.spreads) > MOST_BARS:
        notes.append(
            f"The bars are the {MOST_BARS} of {len(classes.spreads):,} classes with the lowest"
            " values."
        )
    if not matrix:
        notes.append(
            "This result has no confusion matrix: it is of labels, or of an earlier version."
        )
    elif not drawn:
        notes.append(
            f"The matrix of {len(matrix):,} classes is not drawn; those that are confused most are"
            " named."
        )
    elif counts > MOST_CELLS:
        notes.append(f"The matrix shows the {MOST_CELLS:,} largest of its {counts:,} counts.")
    if drawn and len(classes.matrices) > 1:
        notes.append(f"The counts are the sums over {len(classes.matrices)} seeds.")
    return notes


def total_of(matrices: Sequence[Matrix]) -> Matrix:
    """The sum of the matrices of all seeds; empty if there are none."""
    total: dict[str, dict[str, int]] = {name: {} for name in matrices[0]} if matrices else {}
    for matrix in matrices:
        for truth, row in matrix.items():
            for answer, count in row.items():
                total[truth][answer] = total[truth].get(answer, 0) + count
    return total


def bars_of(title: str, classes: Classes) -> list[Mapping[str, Any]]:
    """A row for each class, the lowest value first; the classes without a value are left out."""
    known = [(s.mean, name, s) for name, s in classes.spreads.items() if s.mean is not None]
    known.sort(key=lambda row: row[0])
    return [
        {
            "result": title,
            "order": order,
            "class": name,
            "value": mean,
            "std": spread.std,
            "low": mean - (spread.std or 0.0),
            "high": mean + (spread.std or 0.0),
            "seeds": len(spread.values),
            "values": " ".join(f"{value:.4f}" for value in spread.values if value is not None),
            "samples": classes.samples[name],
        }
        for order, (mean, name, spread) in enumerate(known[:MOST_BARS])
    ]


def cells_of(title: str, number: int, matrix: Matrix) -> list[Mapping[str, Any]]:
    """A row for each true class; the diagonal is always there, so that each class has its place."""
    places = {name: place for place, name in enumerate(matrix)}
    kept = {truth: {truth: row.get(truth, 0)} for truth, row in matrix.items()}
    for count, truth, answer in largest(matrix)[:MOST_CELLS]:
        kept[truth][answer] = count
    return [
        {
            "result": title,
            "number": number,
            "key": f"{number}:{places[truth]}",
            "place": places[truth],
            "truth": truth,
            "samples": sum(matrix[truth].values()),
            "answers": [places[answer] for answer in row],
            "counts": list(row.values()),
        }
        for truth, row in kept.items()
    ]


def largest(matrix: Matrix) -> list[tuple[int, str, str]]:
    """The counts of a matrix that are not zero, with true class and answer, the largest first."""
    found = (
        (count, truth, answer)
        for truth, row in matrix.items()
        for answer, count in row.items()
        if count
    )
    return sorted(found, key=lambda cell: -cell[0])


def pairs_of(title: str, matrix: Matrix) -> list[Mapping[str, Any]]:
    """The pairs of a true class and another answer with the largest counts."""
    wrong = [cell for cell in largest(matrix) if cell[1] != cell[2]][:MOST_PAIRS]
    return [
        {
            "result": title,
            "order": order,
            "pair": f"{truth} → {answer}",
            "truth": truth,
            "answer": answer,
            "count": count,
            "share": count / sum(matrix[truth].values()),
        }
        for order, (count, truth, answer) in enumerate(wrong)
    ]
