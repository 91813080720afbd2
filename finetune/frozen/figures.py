"""Figures of features that need no labels: effective rank, alpha-ReQ and feature distance."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fcmae.spectrum import alpha_req, rankme

MOST = 16384  # features that are looked at, evenly spread: the rest would change little
FIGURES = ("rankme", "alpha_req", "feature_distance")


def figures_of(x: Float[Tensor, "n d"], distances: Float[Tensor, " n"]) -> dict[str, float | None]:
    """The figures of an encoder by its features, as a result tells them.

    Args:
        x: pooled features, not whitened.
        distances: the feature distance of each image, see
            `finetune.models.pooling.pooled_with_distance`.

    Returns:
        `rankme` and `alpha_req` of the pooled features, see `fcmae.spectrum`, the latter None where
        they are too few; `feature_distance`, the mean over images.
    """
    count = min(len(x), MOST)
    rows = x[torch.arange(count) * len(x) // count]
    alpha = alpha_req(rows)
    values = (rankme(rows), None if math.isnan(alpha) else alpha, distances.mean().item())
    return dict(zip(FIGURES, values, strict=True))
