"""Linear probe: one linear layer on frozen features, its whole (lr, weight decay) grid in one pass.

    accelerate launch -m finetune.linear_probe --weights OUT.safetensors --data.train SHARDS \
        --data.test SHARDS --out RESULT.json
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from fcmae.run.config import parse, run_program
from finetune.frozen.features import (
    Features,
    ProbeConfig,
    labelled_features,
    report,
    spread,
    whiten,
)
from finetune.frozen.held_out import splits


@dataclass(frozen=True, kw_only=True)
class LinearProbeConfig(ProbeConfig):
    """Linear probe on frozen features.

    (lr, weight decay) are chosen on held-out training data; the layer is then trained on all of it
    and looks at the test data once.
    """

    lrs: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    """Learning rates of the grid."""
    weight_decays: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1)
    """Weight decays of the grid."""
    epochs: int = 50
    """Passes over the features."""
    batch_size: int = 256
    """Features a step."""


def train_grid(
    train: Features,
    grid: Sequence[tuple[float, float]],
    *,
    epochs: int,
    batch_size: int,
    generator: torch.Generator,
) -> Float[Tensor, "g d1 k"]:
    """One layer for each (lr, weight decay), on the same batches: SGD, momentum 0.9, cosine.

    The last of the d + 1 rows is the bias, which does not decay.
    """
    (n, d), classes = train.x.shape, int(train.y.max()) + 1
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
            logits = train.x[batch] @ torch.cat(weights, dim=1) + torch.cat(biases)
            labels = train.y[batch].repeat_interleave(len(grid))
            # the sum over the grid keeps its members' gradients apart
            loss = F.cross_entropy(logits.view(-1, classes), labels, reduction="sum")
            (loss / len(batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    with torch.no_grad():
        return torch.cat([torch.stack(weights), torch.stack(biases)[:, None]], dim=1)


def accuracy(layers: Float[Tensor, "g d1 k"], data: Features) -> Float[Tensor, " g"]:
    """Share of correct answers of each layer."""
    logits = data.x @ layers[:, :-1] + layers[:, -1:]
    return (logits.argmax(-1) == data.y).float().mean(1)


def main(argv: Sequence[str]) -> None:
    """Extract, choose, train, answer."""
    config = parse(LinearProbeConfig, argv, description=str(LinearProbeConfig.__doc__))
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    train, test, result = labelled_features(config, accelerator)
    grid = list(itertools.product(config.lrs, config.weight_decays))
    whole, unseen = whiten(train, test)
    answers = []
    for seed, (fit, held, generator) in enumerate(splits(train, config, accelerator)):
        if seed % accelerator.num_processes != accelerator.process_index:
            continue  # another process trains this seed, to the same bits
        fit, held = whiten(fit, held)
        options = {"epochs": config.epochs, "batch_size": config.batch_size, "generator": generator}
        found = accuracy(train_grid(fit, grid, **options), held)
        lr, weight_decay = best = grid[int(found.argmax())]
        answer = accuracy(train_grid(whole, [best], **options), unseen)
        chosen = {"lr": lr, "weight_decay": weight_decay}
        answers.append((seed, chosen, found.max().item(), answer.item()))
    _, chosen, held_accuracy, test_accuracy = zip(*sorted(gather_object(answers)), strict=True)
    result |= {
        "chosen": list(chosen),
        "held_out_accuracy": spread(held_accuracy),
        "test_accuracy": spread(test_accuracy),
    }
    report("linear probe", result, config.out, accelerator)
    accelerator.end_training()


if __name__ == "__main__":
    run_program(main)
