"""What a fine-tuned model is measured by, with torchmetrics: numbers, a table, a picture."""

import warnings
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import functional as R
from torchmetrics.functional import classification as M

from fcmae.run.computing import any_operations
from fcmae.run.files import replacing
from fcmae.run.terminal import say, told_apart, visible
from finetune.labels.confusion import confused, counted
from finetune.labels.tasks import Task

BINS = 15  # of the calibration error (Guo et al., ICML 2017)
TOP = 5
MOST_DRAWN = 40  # classes in the picture
LONGEST = 40  # letters of a name in it


def measure(task: Task, answers: Float[Tensor, "n k"], labels: Tensor) -> dict[str, Any]:
    """Numbers of all samples, under `per_class` of each class or label, and, of classes, under
    `confusion` the one matrix of this run, see `finetune.labels.confusion`.

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
        "mae": value_of(R.mean_absolute_error, x, y),
        "rmse": value_of(R.mean_squared_error, x, y, squared=False),
        "r2": value_of(R.r2_score, x, y) if several else None,
        "spearman": value_of(R.spearman_corrcoef, x, y) if told_apart else None,
    }


def value_of(metric: Callable[..., Tensor], *tensors: Tensor, **options: Any) -> Any:
    """What a metric gives: a number, or a list of them; None where it is not defined.

    A metric that fails on some labels must not cost the others: the model is trained by then.
    """
    try:
        with warnings.catch_warnings(), any_operations():
            warnings.simplefilter("ignore")  # of what is not defined, which None says
            found = metric(*tensors, **options).tolist()
    except Exception as error:  # torchmetrics refuses, say, R2 of one sample
        say(f"{metric.__name__} is not defined: {' '.join(str(error).split())}")
        return None
    if isinstance(found, list):
        return [value if isfinite(value) else None for value in found]
    return found if isfinite(found) else None


def mean_auc(p: Float[Tensor, "n k"], y: Bool[Tensor, "n k"]) -> Float[Tensor, ""]:
    """The mean AUC over the columns that have both zeros and ones in `y`; NaN if none has."""
    both = [c for c in range(y.shape[1]) if 0 < int(y[:, c].sum()) < len(y)]
    each = [M.binary_auroc(p[:, c], y[:, c].long()) for c in both]
    return torch.stack(each).mean() if each else torch.tensor(torch.nan)


def average_precision(p: Float[Tensor, " n"], y: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """The average precision of a label; NaN if no sample has it."""
    return M.binary_average_precision(p, y) if y.any() else torch.tensor(torch.nan)


def of_classes(names: Sequence[str], p: Float[Tensor, "n k"], y: Tensor) -> dict[str, Any]:
    """Accuracy (top 1, top 5 of more than 5 classes, mean over classes), F1, AUC, calibration.

    With two classes the AUC is that of the second; with more, the mean over those that occur. It is
    None where all samples are of one class.
    """
    k = len(names)
    each = {"num_classes": k, "average": "none"}
    values = {"accuracy": value_of(M.multiclass_accuracy, p, y, num_classes=k, average="micro")}
    if k > TOP:
        options = {"num_classes": k, "average": "micro", "top_k": TOP}
        values["top5_accuracy"] = value_of(M.multiclass_accuracy, p, y, **options)
    values["balanced_accuracy"] = value_of(M.multiclass_accuracy, p, y, num_classes=k)
    values["macro_f1"] = value_of(M.multiclass_f1_score, p, y, num_classes=k)
    scored = [1] if k == 2 else list(range(k))
    values["auc"] = value_of(mean_auc, p[:, scored], y[:, None] == torch.tensor(scored))
    bins = {"num_classes": k, "n_bins": BINS}
    values["calibration_error"] = value_of(M.multiclass_calibration_error, p, y, **bins)
    columns = {
        "precision": value_of(M.multiclass_precision, p, y, **each),
        "recall": value_of(M.multiclass_recall, p, y, **each),
        "f1": value_of(M.multiclass_f1_score, p, y, **each),
        "samples": y.bincount(minlength=k).tolist(),
    }
    matrix = confused(names, y, p.argmax(1))
    return values | {"per_class": rows(names, columns), "confusion": [matrix]}


def of_labels(names: Sequence[str], p: Float[Tensor, "n k"], y: Tensor) -> dict[str, Any]:
    """Mean average precision, F1, AUC, the share of samples with all labels right.

    Average precision is defined for labels that some sample has, and the mean is over these.
    """
    mean = {"num_labels": len(names)}
    each = mean | {"average": "none"}
    pairs = zip(p.T, y.T, strict=True)
    columns = {
        "average_precision": [value_of(average_precision, *pair) for pair in pairs],
        "precision": value_of(M.multilabel_precision, p, y, **each),
        "recall": value_of(M.multilabel_recall, p, y, **each),
        "f1": value_of(M.multilabel_f1_score, p, y, **each),
        "samples": y.sum(0).tolist(),
    }
    precisions = [value for value in columns["average_precision"] if value is not None]
    return {
        "map": torch.tensor(precisions).mean().item() if precisions else None,
        "macro_f1": value_of(M.multilabel_f1_score, p, y, **mean),
        "auc": value_of(mean_auc, p, y == 1),
        "exact_match": value_of(M.multilabel_exact_match, p, y, **mean),
        "per_class": rows(names, columns),
    }


def names_of_measures(task: Task) -> list[str]:
    """What `measure` measures of a task of classes, beside what it measures of each class."""
    places = torch.arange(task.outputs)
    measured = measure(task, torch.eye(task.outputs), places)
    return [name for name in measured if name not in ("per_class", "confusion")]


def rows(names: Sequence[str], columns: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """The values of each name, by column, out of the columns; names that look alike get numbers.

    Args:
        names: of classes or labels.
        columns: a value for each name, in their order.
    """
    return {
        name: {column: None if values is None else values[i] for column, values in columns.items()}
        for i, name in enumerate(told_apart(names))
    }


def draw_confusion(path: Path, names: Sequence[str], p: Float[Tensor, "n k"], y: Tensor) -> None:
    """The confusion matrix as a picture: rows are the truth, columns the answers, in counts.

    Of many classes it has those that are confused most, so that it stays small and legible.
    """
    from matplotlib.figure import Figure

    counts = counted(y, p.argmax(1), len(names))
    wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diag()
    chosen = wrong.sort(descending=True, stable=True).indices[:MOST_DRAWN].sort().values
    counts = counts[chosen][:, chosen].numpy()
    told = told_apart(names)
    labels = [shorten(visible(told[i])) for i in chosen.tolist()]
    side = max(4.0, 0.6 * len(labels) + 2)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts, cmap="Blues")
    axes.set(xlabel="answer", ylabel="truth")
    if len(labels) < len(names):
        axes.set_title(f"{len(labels)} of {len(names)} classes, those that are confused most")
    # names may have signs of dollar, which are no formulas
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    for (row, column), count in np.ndenumerate(counts):
        dark = count > counts.max() / 2
        axes.text(column, row, count, ha="center", va="center", color="w" if dark else "k")
    with replacing(path) as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks
        figure.savefig(partial)


def shorten(name: str) -> str:
    """A name that fits beside a picture."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."
