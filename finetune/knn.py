"""k-nearest neighbours by cosine, votes weighted by exp(similarity / T) (Wu et al. 2018, T = 0.07).

    accelerate launch -m finetune.knn --weights OUT.safetensors --data.train SHARDS \
        --data.test SHARDS --out RESULT.json
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from fcmae.run.config import parse, run_program
from finetune.frozen.features import ProbeConfig, labelled_features
from finetune.frozen.held_out import splits
from finetune.frozen.neighbours import TEMPERATURE, accuracies
from finetune.labels.results import report, spread


@dataclass(frozen=True, kw_only=True)
class KnnConfig(ProbeConfig):
    """k-NN on frozen features; k is chosen on held-out training data, the test read once."""

    ks: tuple[int, ...] = (1, 5, 10, 20, 50)
    """Numbers of neighbours to choose from."""
    temperature: float = TEMPERATURE
    """Temperature T of the votes, which weigh exp(cosine / T)."""


def main(argv: Sequence[str]) -> None:
    """Extract, choose k, answer."""
    config = parse(KnnConfig, argv, description=str(KnnConfig.__doc__))
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    train, test, result = labelled_features(config, accelerator)
    chosen, held_accuracy = [], []
    for fit, held, _ in splits(train, config.data.held_out, config.seeds, accelerator):
        if not 1 <= min(config.ks) <= max(config.ks) <= len(fit.y):
            raise ValueError(
                f"ks={config.ks} must lie between 1 and the {len(fit.y)} training samples"
            )
        found = accuracies(fit, held, config.ks, config.temperature, accelerator)
        chosen.append(max(config.ks, key=found.__getitem__))
        held_accuracy.append(max(found.values()))
    test_accuracy = accuracies(train, test, sorted(set(chosen)), config.temperature, accelerator)
    result |= {
        "chosen": [{"k": k} for k in chosen],
        "held_out_accuracy": spread(held_accuracy),
        "test_accuracy": spread([test_accuracy[k] for k in chosen]),
    }
    report("k-NN", result, config.out, accelerator)
    accelerator.end_training()


if __name__ == "__main__":
    run_program(main)
