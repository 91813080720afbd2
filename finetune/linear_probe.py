"""Linear probe: one linear layer on frozen features, its whole (lr, weight decay) grid in one pass.

    accelerate launch -m finetune.linear_probe --weights OUT.safetensors --data.train SHARDS \
        --data.test SHARDS --out RESULT.json
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from fcmae.run.config import parse, run_program
from finetune.frozen.features import ProbeConfig, labelled_features
from finetune.frozen.held_out import splits
from finetune.frozen.linear import accuracy, train_grid
from finetune.frozen.whitening import whiten
from finetune.labels.results import report, spread


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


def main(argv: Sequence[str]) -> None:
    """Extract, choose, train, answer."""
    config = parse(LinearProbeConfig, argv, description=str(LinearProbeConfig.__doc__))
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    train, test, result = labelled_features(config, accelerator)
    grid = list(itertools.product(config.lrs, config.weight_decays))
    every_x, test_x = whiten(train.x, test.x)
    answers = []
    parts = splits(train, config.data.held_out, config.seeds, accelerator)
    for seed, (fit, held, generator) in enumerate(parts):
        if seed % accelerator.num_processes != accelerator.process_index:
            continue  # another process trains this seed, to the same bits
        fit_x, held_x = whiten(fit.x, held.x)
        options = {"epochs": config.epochs, "batch_size": config.batch_size, "generator": generator}
        found = accuracy(train_grid(fit_x, fit.y, grid, **options), held_x, held.y)
        lr, weight_decay = best = grid[int(found.argmax())]
        answer = accuracy(train_grid(every_x, train.y, [best], **options), test_x, test.y)
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
