"""The nearest samples in a file of features, and near-duplicates; exact, by cosine.

Features are whitened on the file itself, for untrained encoders as for trained ones.
"""

from collections import defaultdict
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from fcmae.run.waiting import waiting
from fcmae.weights.timm_models import load_timm
from finetune.frozen.feature_file import FeatureTable
from finetune.frozen.neighbours import neighbours
from finetune.frozen.whitening import whitening
from finetune.labels.inference import read_image
from finetune.models.backbone import sha256_of
from finetune.models.pooling import pooled

RIDGE = 0.03  # of the mean variance: more than for probes, since files may have few rows
ROUNDING = 1e-6  # of a cosine in float32: equal features reach the threshold 1
SLICE = 256  # rows that are compared at once with a part of the file


class Whitening:
    """Zero mean and unit covariance, both measured on all rows of a file."""

    def __init__(self, table: FeatureTable) -> None:
        sums = torch.zeros(())
        products = torch.zeros(())
        with waiting("reading features", len(table), "samples") as wait:
            for _, part in table.features():
                x = part.double()
                sums = sums + x.sum(0)
                products = products + x.T @ x
                wait.advance(len(x))
        mean = sums / len(table)
        self.mean = mean.float()
        self.project = whitening(products / len(table) - torch.outer(mean, mean), RIDGE).float()

    def __call__(self, x: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        """Rows of length one, whose products are cosines."""
        return F.normalize((x - self.mean) @ self.project, dim=1)


def nearest(
    table: FeatureTable, query: Float[Tensor, " d"], k: int, without: int | None = None
) -> list[tuple[float, int]]:
    """Cosine and row of the `k` samples nearest to `query`, nearest first.

    Args:
        table: the features of all samples.
        query: a feature.
        k: how many samples.
        without: a row that does not count, that of the query itself.

    Raises:
        ValueError: k is below 1, or there are fewer samples.
    """
    others = len(table) - (without is not None)
    if not 1 <= k <= others:
        raise ValueError(f"k={k} must lie between 1 and the {others} samples to choose from")
    whiten = Whitening(table)
    best = list[tuple[float, int]]()
    for rows, part in table.features():
        cosines, places = neighbours(whiten(query[None]), whiten(part), min(k + 1, len(part)))
        pairs = zip(cosines[0].tolist(), rows[places[0]].tolist(), strict=True)
        best += [pair for pair in pairs if pair[1] != without]
        best = sorted(best, key=lambda pair: (-pair[0], pair[1]))[:k]
    return best


def duplicates(table: FeatureTable, threshold: float) -> list[list[int]]:
    """Rows of each group of near-duplicates, the largest group first.

    Compares all pairs, a part of the file with another at a time.

    Raises:
        ValueError: the threshold is no cosine above 0 and up to 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold:g} must be a cosine above 0 and up to 1")
    whiten = Whitening(table)
    root = torch.arange(len(table))
    with waiting("comparing all pairs", len(table), "samples") as wait:
        for rows, part in table.features():
            join_near(root, table, whiten, rows, whiten(part), threshold)
            wait.advance(len(rows))
    groups = defaultdict[int, list[int]](list)
    for row, least in enumerate(root.tolist()):
        groups[least].append(row)
    return sorted((g for g in groups.values() if len(g) > 1), key=len, reverse=True)


def join_near(
    root: Int[Tensor, " n"],
    table: FeatureTable,
    whiten: Whitening,
    rows: Int[Tensor, " m"],
    left: Float[Tensor, "m d"],
    threshold: float,
) -> None:
    """Join some rows, whose whitened features are `left`, with those up to them, in place."""
    for others, other in table.features():
        if others[0] > rows[0]:
            break
        right = whiten(other)
        for a, some in zip(rows.split(SLICE), left.split(SLICE), strict=True):
            near = some @ right.T >= threshold - ROUNDING
            near &= root[a][:, None] != root[others]  # the others are joined already
            i, j = near.nonzero(as_tuple=True)
            join(root, a[i], others[j])


def join(root: Int[Tensor, " n"], a: Int[Tensor, " p"], b: Int[Tensor, " p"]) -> None:
    """Join the components of each pair (a, b), in place.

    `root` has the least row of each row's component, before and after. Union-find, of all pairs at
    once: roots are hooked to the least one that they are paired with, then paths are shortened.
    """
    while (root[a] != root[b]).any():
        ends = torch.stack([root[a], root[b]])
        root.scatter_reduce_(0, ends.amax(0), ends.amin(0), "amin")
        while not torch.equal(root, root[root]):
            root.copy_(root[root])


def feature_of(image: Path, weights: Path, table: FeatureTable) -> Float[Tensor, " d"]:
    """The feature of an image, made as those of the table were, by what was pooled, too.

    Raises:
        OSError: the image or the weights cannot be read.
        ValueError: the image cannot be decoded, the weights are not those of the table, or see
            `FeatureTable.pool`.
    """
    pool = table.pool()
    model, metadata = load_timm(weights)
    model.eval()
    if sha256_of(model, metadata) != table.provenance["weights_sha256"]:
        provenance = table.provenance
        raise ValueError(
            f"{weights} are not the weights of {table.path}, which are {provenance['weights']} of"
            f" {provenance['model']}, step {provenance['step']}: give those, or embed the shards"
            " with these"
        )
    if not image.is_file():
        raise FileNotFoundError(f"image {image} does not exist")
    with torch.no_grad():
        return pooled(model, read_image(image, metadata, table.config()), pool).mean(0)
