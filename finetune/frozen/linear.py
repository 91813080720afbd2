"""A linear layer on frozen features, its whole (lr, weight decay) grid in one pass."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


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
    for _ in range(epochs):
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
    """Share of correct answers of each layer."""
    logits = x @ layers[:, :-1] + layers[:, -1:]
    return (logits.argmax(-1) == y).float().mean(1)
