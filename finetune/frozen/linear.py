"""The linear probe: a layer on frozen features, its whole (lr, weight decay) grid in one pass."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from fcmae.run.waiting import counted
from finetune.frozen.config import ProbeConfig
from finetune.frozen.features import labelled_features
from finetune.frozen.held_out import splits
from finetune.frozen.whitening import whiten
from finetune.labels.confusion import confused
from finetune.labels.labelled import training_directory
from finetune.labels.names import names_for, names_in
from finetune.labels.results import spread


def linear_probe(
    config: ProbeConfig,
    grid: Sequence[tuple[float, float]],
    *,
    epochs: int,
    batch_size: int,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Choose from the grid on held-out training data, train on all of it, and test once.

    Args:
        config: of the features and of the data.
        grid: learning rates and weight decays.
        epochs: passes over the features.
        batch_size: features a step.
        accelerator: of the processes, each of which has to call it; they share the seeds.

    Returns:
        What is to be reported.

    Raises:
        OSError: see `labelled_features`.
        ValueError: see `labelled_features` and `splits`.
    """
    named = names_in(training_directory(config.data), config.data.source)
    train, test, result = labelled_features(config, accelerator)
    names = names_for(named, result["classes"])
    every_x, test_x = whiten(train.x, test.x)
    measured = []
    parts = splits(train, config.data.held_out, config.seeds, accelerator)
    for seed, (fit, validation, generator) in enumerate(parts):
        if seed % accelerator.num_processes != accelerator.process_index:
            continue  # another process trains this seed, to the same bits
        fit_x, validation_x = whiten(fit.x, validation.x)
        options = {"epochs": epochs, "batch_size": batch_size, "generator": generator}
        layers = train_grid(fit_x, fit.y, grid, **options)
        accuracies = accuracy(layers, validation_x, validation.y)
        best = grid[int(accuracies.argmax())]
        layers = train_grid(every_x, train.y, [best], **options)
        answer = accuracy(layers, test_x, test.y)
        chosen = {"lr": best[0], "weight_decay": best[1]}
        matrix = confused(names, test.y, answers_of(layers, test_x)[0])
        measured.append((seed, chosen, accuracies.max().item(), answer.item(), matrix))
    gathered = sorted(gather_object(measured))
    _, chosen, held_out_accuracy, test_accuracy, confusion = zip(*gathered, strict=True)
    return result | {
        "chosen": list(chosen),
        "held_out_accuracy": spread(held_out_accuracy),
        "test_accuracy": spread(test_accuracy),
        "confusion": list(confusion),
    }


def train_grid(
    x: Float[Tensor, "n d"],
    y: Int[Tensor, " n"],
    grid: Sequence[tuple[float, float]],
    *,
    epochs: int,
    batch_size: int,
    generator: torch.Generator,
) -> Float[Tensor, "g d1 k"]:
    """One layer for each (lr, weight decay), on the same batches: SGD, momentum 0.9, cosine.

    The last of the d + 1 rows is the bias, which does not decay.

    Args:
        x: features.
        y: their classes, which are 0 to the largest of them.
        grid: learning rates and weight decays.
        epochs: passes over the features.
        batch_size: features a step.
        generator: of the order of the features.
    """
    (n, d), classes = x.shape, int(y.max()) + 1
    weights = [torch.zeros(d, classes, requires_grad=True) for _ in grid]
    biases = [torch.zeros(classes, requires_grad=True) for _ in grid]
    optimizer = torch.optim.SGD(
        [
            {"params": [p], "lr": lr, "weight_decay": decay}
            for w, b, (lr, wd) in zip(weights, biases, grid, strict=True)
            for p, decay in ((w, wd), (b, 0.0))
        ],
        momentum=0.9,
    )
    steps = epochs * math.ceil(n / batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in counted(range(epochs), "training linear layers", epochs, "epochs"):
        for batch in torch.randperm(n, generator=generator).split(batch_size):
            logits = x[batch] @ torch.cat(weights, dim=1) + torch.cat(biases)
            labels = y[batch].repeat_interleave(len(grid))
            # the sum over the grid keeps its members' gradients apart
            loss = F.cross_entropy(logits.view(-1, classes), labels, reduction="sum")
            (loss / len(batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    with torch.no_grad():
        return torch.cat([torch.stack(weights), torch.stack(biases)[:, None]], dim=1)


def accuracy(
    layers: Float[Tensor, "g d1 k"], x: Float[Tensor, "n d"], y: Int[Tensor, " n"]
) -> Float[Tensor, " g"]:
    """The share of correct answers that each layer gives."""
    return (answers_of(layers, x) == y).float().mean(1)


def answers_of(layers: Float[Tensor, "g d1 k"], x: Float[Tensor, "n d"]) -> Int[Tensor, "g n"]:
    """The class that each layer answers for each feature."""
    logits = x @ layers[:, :-1] + layers[:, -1:]
    return logits.argmax(-1)
