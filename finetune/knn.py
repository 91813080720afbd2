"""k-nearest neighbours by cosine, votes weighted by exp(similarity / T) (Wu et al. 2018, T = 0.07).

    accelerate launch -m finetune.knn --weights OUT.safetensors --data.train SHARDS \
        --data.test SHARDS --out RESULT.json
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from fcmae.config import parse, run_program
from fcmae.convert import Metadata
from finetune.features import (
    Features,
    LabelledData,
    ProbeConfig,
    extract,
    hold_out,
    labelled_features,
    labelled_images,
    report,
    spread,
    whiten,
)

TEMPERATURE = 0.07


@dataclass(frozen=True, kw_only=True)
class KnnConfig(ProbeConfig):
    """k-NN on frozen features; k is chosen on held-out training data, the test read once."""

    ks: tuple[int, ...] = (1, 5, 10, 20, 50)
    """Numbers of neighbours to choose from."""
    temperature: float = TEMPERATURE
    """Of the votes."""


def neighbours(
    query: Float[Tensor, "q d"], bank: Float[Tensor, "n d"], k: int, chunk: int = 4096
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """Cosine similarity and index of the k nearest rows of `bank`, nearest first; exact."""
    bank = F.normalize(bank, dim=1)
    found = [(F.normalize(part, dim=1) @ bank.T).topk(k, dim=1) for part in query.split(chunk)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def vote(
    similarity: Float[Tensor, "q k"], labels: Int[Tensor, "q k"], classes: int, temperature: float
) -> Int[Tensor, " q"]:
    """The class with the largest sum of exp(similarity / T)."""
    weight = ((similarity - 1) / temperature).exp()
    return weight.new_zeros(len(weight), classes).scatter_add_(1, labels, weight).argmax(1)


def accuracies(
    bank: Features, query: Features, ks: Sequence[int], temperature: float
) -> dict[int, float]:
    """Share of correct answers for each k, after whitening on the bank."""
    bank, query = whiten(bank, query)
    similarity, index = neighbours(query.x, bank.x, max(ks))
    labels, classes = bank.y[index], int(bank.y.max()) + 1
    return {
        k: (vote(similarity[:, :k], labels[:, :k], classes, temperature) == query.y)
        .float()
        .mean()
        .item()
        for k in ks
    }


def knn_accuracy(
    model: nn.Module, metadata: Metadata, data: LabelledData, k: int, accelerator: Accelerator
) -> float:
    """Share of the test samples that their k nearest training samples name rightly.

    For a look at a model in training: nothing is chosen, so nothing is held out. Every process has
    to call it, and all share the work.

    Raises:
        OSError, ValueError: see `finetune.features.extract`; fewer training samples than k.
    """
    model = model.to(accelerator.device).eval()
    sides = []
    for spec in (data.train, data.test):
        images = labelled_images(spec, metadata, data)
        x, y, whole = extract(model, images, metadata, data, accelerator)
        sides.append(Features(x[whole], y[whole], torch.arange(int(whole.sum()))))
    bank, query = sides
    if not 1 <= k <= len(bank.y):
        raise ValueError(f"k={k} must lie between 1 and the {len(bank.y)} training samples")
    return accuracies(bank, query, (k,), TEMPERATURE)[k]


def main(argv: Sequence[str]) -> None:
    """Extract, choose k, answer."""
    config = parse(KnnConfig, argv, description=str(KnnConfig.__doc__))
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    train, test, result = labelled_features(config, accelerator)
    chosen, held_accuracy = [], []
    for seed in range(config.seeds):
        fit, held = hold_out(train, config.data.held_out, torch.Generator().manual_seed(seed))
        if not 1 <= min(config.ks) <= max(config.ks) <= len(fit.y):
            raise ValueError(
                f"ks={config.ks} must lie between 1 and the {len(fit.y)} training samples"
            )
        found = accuracies(fit, held, config.ks, config.temperature)
        chosen.append(max(config.ks, key=found.__getitem__))
        held_accuracy.append(max(found.values()))
    test_accuracy = accuracies(train, test, sorted(set(chosen)), config.temperature)
    result |= {
        "chosen": [{"k": k} for k in chosen],
        "held_out_accuracy": spread(held_accuracy),
        "test_accuracy": spread([test_accuracy[k] for k in chosen]),
    }
    report("k-NN", result, config.out, accelerator)
    accelerator.end_training()


if __name__ == "__main__":
    run_program(main)
