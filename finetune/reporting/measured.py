"""What the results beside a run measure: values with their spread over seeds, and of each class.

Results are files of others: each part that is read is checked, and what is not finite is None.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from fcmae.run.json_files import as_object, field_of
from fcmae.run.terminal import visible

MEASURES = (
    *("accuracy", "top5_accuracy", "balanced_accuracy", "macro_f1", "auc", "calibration_error"),
    *("map", "exact_match", "miou", "pixel_accuracy", "mae", "rmse", "r2", "spearman"),
)
COLUMNS = ("average_precision", "recall", "iou")  # of classes, one of which each task has
Matrix = Mapping[str, Mapping[str, int]]  # by true class and by answer


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A measure, and its values over seeds."""

    values: tuple[float | None, ...] = ()
    """The value of each seed, None where it is not defined; empty if they are not told."""
    mean: float | None = None
    """Their mean; None if one of them is not defined."""
    std: float | None = None
    """Their sample standard deviation; None for a single seed."""

    @staticmethod
    def over(values: Sequence[float | None]) -> "Spread":
        """The spread of the values of seeds."""
        finite = [value for value in values if value is not None]
        whole = bool(values) and len(finite) == len(values)
        return Spread(
            values=tuple(values),
            mean=fmean(finite) if whole else None,
            std=stdev(finite) if whole and len(finite) > 1 else None,
        )

    @staticmethod
    def of_json(value: object) -> "Spread":
        """A value of a result: a number, none, or an object with the mean and the values of seeds.

        Raises:
            ValueError: it is something else.
        """
        if not isinstance(value, dict):
            return Spread.over([number_of(value)])
        values = value.get("values", [])
        if not isinstance(values, list):
            raise ValueError("its values over seeds are no list")
        if values:
            return Spread.over([number_of(one) for one in values])
        return Spread(mean=number_of(value.get("mean")), std=number_of(value.get("std")))


@dataclass(frozen=True, kw_only=True)
class Classes:
    """What a result measures of each class."""

    measure: str
    """What it is: one of COLUMNS."""
    spreads: Mapping[str, Spread]
    """The measure by class, in the order of the classes."""
    samples: Mapping[str, int]
    """The number of test samples, or pixels, of each class."""
    matrices: Sequence[Matrix] = ()
    """The confusion matrix of each seed; none if the result has none."""


def number_of(value: object) -> float | None:
    """A number of a result; None if it is not defined or not finite.

    Raises:
        ValueError: it is no number.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"it has {str(value)[:80]!r} in place of a number")
    number = float(value) if abs(value) < 1e300 or value != value else math.inf
    return number if math.isfinite(number) else None


def measures_of(content: Mapping[str, Any]) -> dict[str, Spread]:
    """The measures of all samples that a result has, by name.

    Raises:
        ValueError: one of them is no number.
    """
    return {name: Spread.of_json(content[name]) for name in MEASURES if name in content}


def classes_of(content: Mapping[str, Any]) -> Classes | None:
    """What a result measures of each class, by its table or else by its confusion matrices.

    Names are as a page shows them.

    Raises:
        ValueError: they are damaged.
    """
    matrices = matrices_of(content)
    if "per_class" in content:
        table = as_object(content["per_class"])
        rows = {visible(name): as_object(row) for name, row in table.items()}
        counted = "pixels" if any("pixels" in row for row in rows.values()) else "samples"
        measure = next((c for c in COLUMNS if all(c in row for row in rows.values())), None)
        if measure is None or not rows:
            return None
        return Classes(
            measure=measure,
            spreads={name: Spread.of_json(row[measure]) for name, row in rows.items()},
            samples={name: field_of(row, counted, int) for name, row in rows.items()},
            matrices=matrices,
        )
    if not matrices:
        return None
    return Classes(
        measure="recall",
        spreads={
            name: Spread.over([recall_of(matrix, name) for matrix in matrices])
            for name in matrices[0]
        },
        samples={name: sum(row.values()) for name, row in matrices[0].items()},
        matrices=matrices,
    )


def recall_of(matrix: Matrix, name: str) -> float | None:
    """The share of the samples of a class that are answered as it; None if there are none."""
    row = matrix[name]
    total = sum(row.values())
    return row.get(name, 0) / total if total else None


def matrices_of(content: Mapping[str, Any]) -> Sequence[Matrix]:
    """The confusion matrices of a result, one a seed; none if it has none.

    Raises:
        ValueError: they are damaged, or of different classes.
    """
    if "confusion" not in content:
        return ()
    matrices = field_of(content, "confusion", tuple[dict[str, dict[str, int]], ...])
    names = [list(matrix) for matrix in matrices]
    if any(some != names[0] for some in names):
        raise ValueError("its confusion matrices are of different classes")
    for matrix in matrices:
        for row in matrix.values():
            if not row.keys() <= matrix.keys() or min(row.values(), default=0) < 0:
                raise ValueError(
                    "its confusion matrix has answers that are no classes, or no counts"
                )
    return [
        {
            visible(truth): {visible(answer): count for answer, count in row.items()}
            for truth, row in matrix.items()
        }
        for matrix in matrices
    ]
