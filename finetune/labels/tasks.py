"""What a head is trained for: one class of several, any of several labels, or a value."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from timm.loss.binary_cross_entropy import BinaryCrossEntropy
from torch import Tensor
from torch.nn import functional as F

from data.targets import ClassTarget, LabelsTarget, Target, ValueTarget
from fcmae.run.json_files import as_dataclass, parse_json
from finetune.labels.config import Kind, TaskConfig


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task as the training data have it; it travels with the weights."""

    kind: Kind
    field: str
    names: tuple[str, ...]
    """Names of the classes; for a value, the name of its field."""
    mean: float = 0.0
    """Mean of the training values, which are learned standardised."""
    std: float = 1.0
    """Standard deviation of the training values."""
    rows: bool = False
    """Whether lists of labels have a zero or one for each, in place of the numbers of some."""

    @staticmethod
    def of_json(text: str) -> "Task":
        """The task that a header of weights holds, as JSON.

        Raises:
            ValueError: it is no JSON, or has other fields or values.
        """
        task = as_dataclass(Task, parse_json(text, "it", dict))
        if not task.names or task.std <= 0:
            raise ValueError("it names no outputs, or has a std that is not above 0")
        return task

    @property
    def outputs(self) -> int:
        """How many values the head gives."""
        return len(self.names)

    @property
    def target(self) -> Target:
        """What reads the labels of samples."""
        return target_of(self.kind, self.field, self.outputs, rows=self.rows)

    def answers(self, outputs: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Probabilities of the classes, or values, out of what the head gives."""
        if self.kind == "class":
            return outputs.softmax(1)
        return outputs.sigmoid() if self.kind == "labels" else outputs * self.std + self.mean


def target_of(kind: Kind, field: str, classes: int | None, *, rows: bool = False) -> Target:
    """How labels of this kind are read.

    Args:
        kind: of the labels.
        field: of the json member; empty for classes that are in `.cls`.
        classes: how many there are, which the kind "labels" has to know.
        rows: whether lists of labels have a zero or one for each, in place of the numbers of some.

    Raises:
        ValueError: the field, or how many labels there are, is not known.
    """
    if kind == "class":
        return ClassTarget(field)
    if not field:
        raise ValueError(f"task.kind={kind} is in a field of .json: name it with --task.field")
    if kind == "value":
        return ValueTarget(field)
    if not classes:
        raise ValueError("task.kind=labels needs --task.classes, or a classes.json of their names")
    if classes == 1:
        raise ValueError(
            "task.kind=labels is for several labels: of one that is there or not, take"
            f" --task.kind class --task.field {field} --task.classes 2"
        )
    return LabelsTarget(field, classes, rows)


class Loss:
    """The loss of a task.

    Cross-entropy is torch's, which equals timm's LabelSmoothingCrossEntropy and, of mixed targets,
    SoftTargetCrossEntropy, and can weigh classes; binary cross-entropy is timm's. Values have the
    smooth L1 loss.

    Args:
        task: what is learned.
        config: the kind of loss, label smoothing, and how classes are balanced.
        labels: of the training data, Int[n] or Float[n, k].
        device: where the loss will be computed.

    Raises:
        ValueError: a loss or a balance that this kind of task has not.
    """

    def __init__(
        self, task: Task, config: TaskConfig, labels: Tensor, device: torch.device
    ) -> None:
        self.task = task
        self.smoothing = config.smoothing
        self.weight = None
        if config.balance and task.kind == "value":
            raise ValueError(f"task.balance={config.balance} is for classes, not for values")
        if config.balance:
            self.weight = class_weights(task, labels, config.balance).to(device)
        self.bce = None
        if config.loss == "bce":
            if task.kind != "class":
                raise ValueError(f"task.loss=bce is for task.kind=class, not {task.kind}")
            self.bce = BinaryCrossEntropy(config.smoothing, pos_weight=self.weight)

    def __call__(self, outputs: Float[Tensor, "b k"], target: Tensor) -> Float[Tensor, ""]:
        """Mean over the batch; a class may be given as its number or as a mixed row of ones."""
        if self.task.kind == "value":
            return F.smooth_l1_loss(outputs, (target - self.task.mean) / self.task.std)
        if self.task.kind == "labels":
            return F.binary_cross_entropy_with_logits(outputs, target, pos_weight=self.weight)
        if self.bce is not None:
            return self.bce(outputs, target)
        smoothing = 0.0 if target.is_floating_point() else self.smoothing  # mixed: smooth already
        return F.cross_entropy(outputs, target, self.weight, label_smoothing=smoothing)


def class_weights(task: Task, labels: Tensor, balance: float) -> Float[Tensor, " k"]:
    """Inverse frequencies to the power of `balance`, of mean 1 over the training samples; for
    labels, those without each to those with it."""
    if task.kind == "labels":
        present = labels.sum(0).clamp_min(1)
        return ((len(labels) - present) / present) ** balance
    counts = labels.bincount(minlength=task.outputs).clamp_min(1).float()
    weights = counts**-balance
    return weights / (weights * counts).sum() * len(labels)


def make_task(
    config: TaskConfig, named: Sequence[str], labels: Tensor, where: str, *, rows: bool = False
) -> Task:
    """The task of these training labels.

    Args:
        config: the kind of task, and the number of classes if it is given.
        named: the names in classes.json, if there is one.
        labels: of the training samples, Int[n] or Float[n, k].
        where: the training shards, for errors.
        rows: whether lists of labels have a zero or one for each.

    Raises:
        ValueError: labels and classes do not fit, a class has no sample, or there is but one.
    """
    if config.kind == "value":
        values = labels.double()
        std = float(values.std())
        if not std > 0:
            raise ValueError(f"all values of {config.field!r} in {where} are {float(values[0])}")
        return Task(
            kind="value",
            field=config.field,
            names=(config.field,),
            mean=float(values.mean()),
            std=std,
        )
    counts = labels.bincount() if config.kind == "class" else labels.sum(0).long()
    classes = config.classes or len(named) or len(counts)
    if len(counts) > classes:
        raise ValueError(
            f"{where} have labels up to {len(counts) - 1}, but there are {classes} classes: correct"
            " --task.classes or classes.json"
        )
    names = tuple(named) if len(named) == classes else tuple(str(i) for i in range(classes))
    empty = [names[i] for i in range(classes) if i >= len(counts) or not counts[i]]
    if empty:
        raise ValueError(
            f"no training sample is of class {', '.join(empty)}: add some, or take the class out"
        )
    if classes == 1:
        raise ValueError(
            f"all training samples of {where} are of class {names[0]}: there is nothing to tell"
            " apart; add samples of another class"
        )
    return Task(kind=config.kind, field=config.field, names=names, rows=rows)
