"""Linear probe: one linear layer on frozen features, its whole (lr, weight decay) grid in one pass.

    fcmae probe --weights OUT.safetensors --data.train SHARDS --data.test SHARDS \
        --out RESULT.json
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from fcmae.run.config import parse
from fcmae.run.program import run_program
from fcmae.run.ranges import Batch, Count, NotNegative
from fcmae.run.waiting import waiting
from finetune.frozen.config import ProbeConfig


@dataclass(frozen=True, kw_only=True)
class LinearProbeConfig(ProbeConfig):
    """Linear probe on frozen features.

    (lr, weight decay) are chosen on held-out training data; the layer is then trained on all of it
    and looks at the test data once.
    """

    lrs: tuple[NotNegative, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    """Learning rates of the grid."""
    weight_decays: tuple[NotNegative, ...] = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1)
    """Weight decays of the grid."""
    epochs: Count = 50
    """Passes over the features."""
    batch_size: Batch = 256
    """Features a step."""


def main(argv: Sequence[str]) -> None:
    """Extract features, choose, train, test, and report."""
    config = parse(LinearProbeConfig, argv, description=str(LinearProbeConfig.__doc__))
    config.data.check_test()
    # torch and timm take seconds, and a help text needs neither
    with waiting("importing PyTorch"):
        from fcmae.run.accelerator import LineAccelerator
        from finetune.frozen.linear import linear_probe
        from finetune.labels.results import report

    accelerator = LineAccelerator()
    result = linear_probe(
        config,
        list(itertools.product(config.lrs, config.weight_decays)),
        epochs=config.epochs,
        batch_size=config.batch_size,
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        report("linear probe", result, config.out, then=config.next_command)
    accelerator.end_training()


if __name__ == "__main__":
    run_program(main)
