"""k-nearest neighbours by cosine, and their votes, weighted by exp(similarity / T).

Source: Wu et al., CVPR 2018, with T = 0.07.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from fcmae.run.waiting import counted
from fcmae.weights.metadata import Metadata
from finetune.frozen.config import TEMPERATURE, ProbeConfig
from finetune.frozen.features import Features, extract, labelled_features, labelled_images
from finetune.frozen.held_out import splits
from finetune.frozen.whitening import whiten
from finetune.labels.config import LabelledData
from finetune.labels.confusion import confused
from finetune.labels.inference import Inference
from finetune.labels.labelled import training_directory
from finetune.labels.names import names_for, names_in
from finetune.labels.results import spread
from finetune.models.pooling import pooled

STEPS = 2**24  # similarities are told apart to 2^-24, as float32 does just below 1


def knn(
    config: ProbeConfig, ks: tuple[int, ...], temperature: float, accelerator: Accelerator
) -> dict[str, Any]:
    """Choose k on held-out training data, and answer the test data once.

    Args:
        config: of the features and of the data.
        ks: numbers of neighbours to choose from.
        temperature: T of the votes.
        accelerator: of the processes, each of which has to call it; they share the queries.

    Returns:
        What is to be reported.

    Raises:
        OSError: see `labelled_features`.
        ValueError: see `labelled_features` and `splits`; or no k that there are enough samples
            for.
    """
    named = names_in(training_directory(config.data), config.data.source)
    train, test, result = labelled_features(config, accelerator)
    names = names_for(named, result["classes"])
    chosen = []
    held_out_accuracy = []
    left_out = set[int]()
    for fit, validation, _ in splits(train, config.data.held_out, config.seeds, accelerator):
        fitting = [k for k in ks if k <= len(fit.y)]
        if not fitting or min(ks) < 1:
            raise ValueError(
                f"ks={ks} must lie between 1 and the {len(fit.y)} training samples: give --ks"
            )
        left_out.update(set(ks) - set(fitting))
        accuracy = accuracies(fit, validation, fitting, temperature, accelerator)
        chosen.append(max(fitting, key=accuracy.__getitem__))
        held_out_accuracy.append(max(accuracy.values()))
    if left_out:
        accelerator.print(f"k of {sorted(left_out)} is left out: there are fewer training samples")
    answers = answers_by(train, test, sorted(set(chosen)), temperature, accelerator)
    matrices = {k: confused(names, test.y, answer) for k, answer in answers.items()}
    return result | {
        "chosen": [{"k": k} for k in chosen],
        "held_out_accuracy": spread(held_out_accuracy),
        "test_accuracy": spread([share_of_right(answers[k], test.y) for k in chosen]),
        "confusion": [matrices[k] for k in chosen],
    }


def neighbours(
    query: Float[Tensor, "q d"], bank: Float[Tensor, "n d"], k: int, chunk: int = 1024
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """Cosine similarity and index of the k nearest rows of `bank`, nearest first; exact.

    Of rows equally similar to 2^-24 the first come first. Takes the memory of a few chunk x chunk
    numbers beside arguments and results.
    """
    parts = query.split(chunk)
    answering = counted(parts, "computing neighbours", len(parts), f"times {chunk} samples")
    keys = torch.cat([largest_keys(part, bank, k, chunk) for part in answering])
    steps = keys.div(len(bank), rounding_mode="floor")
    backwards = keys % len(bank)
    return steps / STEPS, len(bank) - 1 - backwards


def largest_keys(
    query: Float[Tensor, "q d"], bank: Float[Tensor, "n d"], k: int, chunk: int
) -> Int[Tensor, "q k"]:
    """The k largest keys, similarity in steps x n + (n - 1 - index).

    All keys of a query differ, so that chunks cannot change which are largest. The products are
    taken in float64, or equal rows would differ by how their chunk is summed.
    """
    n = len(bank)
    query = F.normalize(query.double(), dim=1)
    best = torch.empty(len(query), 0, dtype=torch.int64)
    backwards = torch.arange(n - 1, -1, -1)
    for rows, order in zip(bank.split(chunk), backwards.split(chunk), strict=True):
        steps = (query @ F.normalize(rows.double(), dim=1).T).mul_(STEPS).round_().long()
        best = torch.cat([best, steps.mul_(n).add_(order)], dim=1)
        best = best.topk(min(k, best.shape[1]), dim=1).values
    return best


def vote(
    similarity: Float[Tensor, "q k"], labels: Int[Tensor, "q k"], classes: int, temperature: float
) -> Int[Tensor, " q"]:
    """The class with the largest sum of exp(similarity / T)."""
    weight = ((similarity - 1) / temperature).exp()
    return weight.new_zeros(len(weight), classes).scatter_add_(1, labels, weight).argmax(1)


def accuracies(
    bank: Features,
    query: Features,
    ks: Sequence[int],
    temperature: float,
    accelerator: Accelerator,
) -> dict[int, float]:
    """Share of correct answers for each k; see `answers_by`."""
    answers = answers_by(bank, query, ks, temperature, accelerator)
    return {k: share_of_right(answer, query.y) for k, answer in answers.items()}


def share_of_right(answers: Int[Tensor, " n"], truth: Int[Tensor, " n"]) -> float:
    """The share of the answers that are correct."""
    return ((answers == truth).sum() / len(truth)).item()


def answers_by(
    bank: Features,
    query: Features,
    ks: Sequence[int],
    temperature: float,
    accelerator: Accelerator,
) -> dict[int, Int[Tensor, " n"]]:
    """The class that the queries are answered as by each k, after whitening on the bank.

    Every process has to call it with all the data; each answers its share of the queries, and gets
    the answers of all.
    """
    bank_x, query_x = whiten(bank.x, query.x)
    total = len(query.y)
    classes = int(bank.y.max()) + 1
    mine = torch.arange(accelerator.process_index, total, accelerator.num_processes)
    similarity, index = neighbours(query_x[mine], bank_x, max(ks))
    labels = bank.y[index]
    votes = [vote(similarity[:, :k], labels[:, :k], classes, temperature) for k in ks]
    answers = torch.empty(len(ks), total, dtype=torch.int64)
    for rank, part in enumerate(gather_object([torch.stack(votes)])):
        answers[:, rank :: accelerator.num_processes] = part
    return dict(zip(ks, answers, strict=True))


def knn_accuracy(
    model: nn.Module, metadata: Metadata, data: LabelledData, k: int, accelerator: Accelerator
) -> float:
    """Share of the test samples that their k nearest training samples name rightly.

    For a look at a model in training: nothing is chosen, so nothing is held out. Every process has
    to call it, and all share the work.

    Raises:
        OSError, ValueError: see `finetune.frozen.features.extract`; fewer training samples than k.
    """
    model = model.to(accelerator.device).eval()
    sides = []
    for spec in (data.train, data.test):
        images = labelled_images(spec, metadata, data)
        inference = Inference(images, metadata, data, accelerator)
        outputs = extract(model, inference, partial(pooled, model, pool="last"))
        groups = torch.arange(len(images))  # nothing is held out
        sides.append(Features(outputs.rows, outputs.labels, groups).take(outputs.whole))
    bank, query = sides
    if not 1 <= k <= len(bank.y):
        raise ValueError(f"k={k} must lie between 1 and the {len(bank.y)} training samples")
    return accuracies(bank, query, (k,), TEMPERATURE, accelerator)[k]
