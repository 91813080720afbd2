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

from finetune.labels.tasks import Task

BINS = 15  # of the calibration error (Guo et al., ICML 2017)
TOP = 5
MOST_WRITTEN = 40  # classes whose counts are written into the picture


def measure(task: Task, answers: Float[Tensor, "n k"], labels: Tensor) -> dict[str, Any]:
    """Numbers of all samples, and under `per_class` of each class or label.

    Args:
        task: of the answers.
        answers: probabilities of classes or labels, or values: `task.answers`.
        labels: Int[n] or Float[n, k].
    """
    if task.kind == "class":
        return of_classes(task.names, answers, labels)
    if task.kind == "labels":
        return of_labels(task.names, answers, labels.long())
    x = answers.flatten()
    y = labels.flatten()
    return {
        "mae": R.mean_absolute_error(x, y).item(),
        "rmse": R.mean_squared_error(x, y, squared=False).item(),
        "r2": R.r2_score(x, y).item(),
        "spearman": R.spearman_corrcoef(x, y).item(),
    }


def of_classes(names: Sequence[str], p: Float[Tensor, "n k"], y: Tensor) -> dict[str, Any]:
    """Accuracy (top 1, top 5 of more than five classes, mean over classes), F1, AUC, calibration.

    With two classes the AUC is that of the second; with more, the mean over those that occur.
    """
    k = len(names)
    values = {"accuracy": M.multiclass_accuracy(p, y, k, average="micro").item()}
    if k > TOP:
        values["top5_accuracy"] = M.multiclass_accuracy(p, y, k, average="micro", top_k=TOP).item()
    values["balanced_accuracy"] = M.multiclass_accuracy(p, y, k, average="macro").item()
    values["macro_f1"] = M.multiclass_f1_score(p, y, k, average="macro").item()
    scored = [1] if k == 2 else y.unique().tolist()
    each = [M.binary_auroc(p[:, c], (y == c).long()) for c in scored]
    values["auc"] = torch.stack(each).mean().item()
    values["calibration_error"] = M.multiclass_calibration_error(p, y, k, n_bins=BINS).item()
    columns = {
        "precision": M.multiclass_precision(p, y, k, average="none").tolist(),
        "recall": M.multiclass_recall(p, y, k, average="none").tolist(),
        "f1": M.multiclass_f1_score(p, y, k, average="none").tolist(),
        "samples": y.bincount(minlength=k).tolist(),
    }
    return values | {"per_class": rows(names, columns)}


def of_labels(names: Sequence[str], p: Float[Tensor, "n k"], y: Tensor) -> dict[str, Any]:
    """Mean average precision, F1, AUC, the share of samples with all labels right."""
    k = len(names)
    columns = {
        "average_precision": M.multilabel_average_precision(p, y, k, average="none").tolist(),
        "precision": M.multilabel_precision(p, y, k, average="none").tolist(),
        "recall": M.multilabel_recall(p, y, k, average="none").tolist(),
        "f1": M.multilabel_f1_score(p, y, k, average="none").tolist(),
        "samples": y.sum(0).tolist(),
    }
    return {
        "map": M.multilabel_average_precision(p, y, k).item(),
        "macro_f1": M.multilabel_f1_score(p, y, k).item(),
        "auc": M.multilabel_auroc(p, y, k).item(),
        "exact_match": M.multilabel_exact_match(p, y, k).item(),
        "per_class": rows(names, columns),
    }


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
        cells = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values())
        table.add_row(name, *cells)
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
