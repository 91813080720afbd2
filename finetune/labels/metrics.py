"""What a fine-tuned model is measured by, with torchmetrics: numbers, a table, a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.table import Table
from torch import Tensor
from torchmetrics import functional as R
from torchmetrics.functional import classification as M

from finetune.labels.results import shown
from finetune.labels.tasks import Task

BINS = 15  # of the calibration error (Guo et al., ICML 2017)
TOP = 5
MOST_WRITTEN = 40  # classes whose counts are written into the picture


def measure(task: Task, answers: Float[Tensor, "n k"], labels: Tensor) -> dict[str, Any]:
    """Numbers of all samples, and under `per_class` of each class or label.

    A number that these samples do not define, such as an AUC where all are of one class, is None.

    Args:
        task: of the answers.
        answers: probabilities of classes or labels, or values: `task.answers`.
        labels: Int[n] or Float[n, k].
    """
    if task.kind == "class":
        return of_classes(task.names, answers, labels)
    if task.kind == "labels":
        return of_labels(task.names, answers, labels.long())
    return of_values(answers.flatten(), labels.flatten())


def of_values(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> dict[str, Any]:
    """Errors, and the correlations, which are not defined where all values are equal."""
    several = bool((y != y[0]).any())
    told_apart = several and bool((x != x[0]).any())
    return {
        "mae": R.mean_absolute_error(x, y).item(),
        "rmse": R.mean_squared_error(x, y, squared=False).item(),
        "r2": R.r2_score(x, y).item() if several else None,
        "spearman": R.spearman_corrcoef(x, y).item() if told_apart else None,
    }


def of_classes(names: Sequence[str], p: Float[Tensor, "n k"], y: Tensor) -> dict[str, Any]:
    """Accuracy (top 1, top 5 of more than five classes, mean over classes), F1, AUC, calibration.

    With two classes the AUC is that of the second; with more, the mean over those that occur. It is
    None where all samples are of one class.
    """
    k = len(names)
    values: dict[str, Any] = {"accuracy": M.multiclass_accuracy(p, y, k, average="micro").item()}
    if k > TOP:
        values["top5_accuracy"] = M.multiclass_accuracy(p, y, k, average="micro", top_k=TOP).item()
    values["balanced_accuracy"] = M.multiclass_accuracy(p, y, k, average="macro").item()
    values["macro_f1"] = M.multiclass_f1_score(p, y, k, average="macro").item()
    scored = [1] if k == 2 else y.unique().tolist()
    values["auc"] = mean_auc(p[:, scored], torch.stack([y == c for c in scored], dim=1))
    values["calibration_error"] = M.multiclass_calibration_error(p, y, k, n_bins=BINS).item()
    columns = {
        "precision": M.multiclass_precision(p, y, k, average="none").tolist(),
        "recall": M.multiclass_recall(p, y, k, average="none").tolist(),
        "f1": M.multiclass_f1_score(p, y, k, average="none").tolist(),
        "samples": y.bincount(minlength=k).tolist(),
    }
    return values | {"per_class": rows(names, columns)}


def of_labels(names: Sequence[str], p: Float[Tensor, "n k"], y: Tensor) -> dict[str, Any]:
    """Mean average precision, F1, AUC, the share of samples with all labels right.

    The average precision of a label is None where no sample has it, its AUC also where all have it;
    the means are over the other labels.
    """
    k = len(names)
    there = y.any(0).tolist()
    precisions = [
        M.binary_average_precision(p[:, c], y[:, c]) if there[c] else None for c in range(k)
    ]
    columns = {
        "average_precision": [None if value is None else value.item() for value in precisions],
        "precision": M.multilabel_precision(p, y, k, average="none").tolist(),
        "recall": M.multilabel_recall(p, y, k, average="none").tolist(),
        "f1": M.multilabel_f1_score(p, y, k, average="none").tolist(),
        "samples": y.sum(0).tolist(),
    }
    return {
        "map": mean_of_defined(precisions),
        "macro_f1": M.multilabel_f1_score(p, y, k).item(),
        "auc": mean_auc(p, y),
        "exact_match": M.multilabel_exact_match(p, y, k).item(),
        "per_class": rows(names, columns),
    }


def mean_auc(p: Float[Tensor, "n k"], y: Tensor) -> float | None:
    """The mean area under the ROC curves of those columns that have samples on both sides.

    Args:
        p: scores.
        y: [n, k], not zero for the samples that a column is true of.

    Returns:
        The mean, or None if there is no such column.
    """
    sides = zip(p.unbind(1), y.bool().unbind(1), strict=True)
    return mean_of_defined(
        [
            M.binary_auroc(x, side.long()) if side.any() and not side.all() else None
            for x, side in sides
        ]
    )


def mean_of_defined(values: Sequence[Tensor | None]) -> float | None:
    """The mean of the numbers that are defined, or None if none is."""
    defined = [value for value in values if value is not None]
    return torch.stack(defined).mean().item() if defined else None


def rows(names: Sequence[str], columns: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """The values of each name, by column, out of the columns.

    Args:
        names: of classes or labels.
        columns: a value for each name, in their order.
    """
    return {
        name: {column: values[i] for column, values in columns.items()}
        for i, name in enumerate(names)
    }


def table_of(per_class: dict[str, dict[str, Any]]) -> Table:
    """A table, to be printed, of the values of each class."""
    table = Table("class", *next(iter(per_class.values())))
    for name, row in per_class.items():
        table.add_row(name, *(shown(value, digits=3) for value in row.values()))
    return table


def draw_confusion(path: Path, names: Sequence[str], p: Float[Tensor, "n k"], y: Tensor) -> None:
    """The confusion matrix as a picture: rows are the truth, columns the answers, in counts."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    counts = M.multiclass_confusion_matrix(p, y, len(names)).numpy()
    side = max(4.0, 0.6 * len(names) + 2)
    figure, axes = plt.subplots(figsize=(side, side), layout="constrained")
    axes.imshow(counts, cmap="Blues")
    axes.set(xlabel="answer", ylabel="truth")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    if len(names) <= MOST_WRITTEN:
        for (row, column), count in np.ndenumerate(counts):
            dark = count > counts.max() / 2
            axes.text(column, row, count, ha="center", va="center", color="w" if dark else "k")
    figure.savefig(path)
    plt.close(figure)
