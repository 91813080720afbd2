"""k-nearest neighbours by cosine, votes weighted by exp(similarity / T) (Wu et al. 2018, T = 0.07).

    fcmae knn --weights OUT.safetensors --data.train SHARDS --data.test SHARDS \
        --out RESULT.json
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fcmae.run.config import parse
from fcmae.run.program import run_program
from fcmae.run.ranges import Count, Positive
from fcmae.run.waiting import waiting
from finetune.frozen.config import TEMPERATURE, ProbeConfig


@dataclass(frozen=True, kw_only=True)
class KnnConfig(ProbeConfig):
    """k-NN on frozen features; k is chosen on held-out training data, the test read once."""

    ks: tuple[Count, ...] = (1, 5, 10, 20, 50)
    """Numbers of neighbours to choose from."""
    temperature: Positive = TEMPERATURE
    """Temperature T of the votes, which weigh exp(cosine / T)."""


def main(argv: Sequence[str]) -> None:
    """Extract features, choose k, test, and report."""
    config = parse(KnnConfig, argv, description=str(KnnConfig.__doc__))
    config.data.check_test()
    # torch and timm take seconds, and a help text needs neither
    with waiting("importing PyTorch"):
        from fcmae.run.accelerator import LineAccelerator
        from finetune.frozen.neighbours import knn
        from finetune.labels.results import report

    accelerator = LineAccelerator()
    result = knn(config, config.ks, config.temperature, accelerator)
    if accelerator.is_main_process:
        report("k-NN", result, config.out, then=config.next_command)
    accelerator.end_training()


if __name__ == "__main__":
    run_program(main)
