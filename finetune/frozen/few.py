"""Classifiers of frozen features for few labels, in closed form: least squares, class means.

Both give a score for each class, whose softmax are probabilities.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.1  # of cosines to class means (Chen et al., ICLR 2019, learn one; ranks stay)


def ridge(
    x: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    classes: int,
    unseen: Float[Tensor, "m d"],
    strength: float,
) -> Float[Tensor, "m k"]:
    """Scores of least squares on the classes as rows of zeros and a one, with a ridge.

    Of n samples it solves a system of n equations, whatever the width d is (the dual form).
    Source: Bertinetto et al., arXiv 1805.08136, equation 4.

    Args:
        x: features to learn from.
        labels: their classes.
        classes: how many there are.
        unseen: features to tell the classes of.
        strength: of the ridge, in mean squared lengths of the rows of x.
    """
    x, unseen = x.double(), unseen.double()
    mean = x.mean(0)
    x, unseen = x - mean, unseen - mean
    wanted = F.one_hot(labels, classes).double()
    offset = wanted.mean(0)
    products = x @ x.T
    products.diagonal().add_(strength * products.diagonal().mean().clamp_min(1e-30))
    weights = torch.linalg.solve(products, wanted - offset)
    return (unseen @ (x.T @ weights) + offset).float()


def nearest_mean(
    x: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    classes: int,
    unseen: Float[Tensor, "m d"],
) -> Float[Tensor, "m k"]:
    """Scores by the cosine to the mean of each class, whose samples count by their direction.

    Source: Snell et al., arXiv 1703.05175, with cosines as Chen et al., arXiv 1904.04232.

    Args:
        x: features to learn from.
        labels: their classes, each of which has a sample.
        classes: how many there are.
        unseen: features to tell the classes of.
    """
    members = F.one_hot(labels, classes).to(x.dtype)
    means = F.normalize(members.T @ F.normalize(x, dim=1), dim=1)
    return F.normalize(unseen, dim=1) @ means.T / TEMPERATURE
