"""How many directions features use: RankMe, and alpha-ReQ's decay of their spectrum; no labels.

RankMe (Garrido et al. 2023, arXiv 2210.02885, eq. 1): of n x d features Z with singular values s_k,

    p_k = s_k / sum of s,  RankMe(Z) = exp(-sum of p_k log p_k)

It lies between 1 and min(n, d). alpha-ReQ (Agrawal et al. 2022, arXiv 2202.05808): the eigenvalues
of the features' covariance fall as a power of their rank,

    lambda_i ~ i^-alpha

A large alpha means that few directions hold all of the variance; good features are near 1.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

WIDE = 1024  # features and values of each, from which on singular values would take minutes
SMALLEST = 1e-10  # of the largest eigenvalue: below it is what float32 rounds


def rankme(features: Float[Tensor, "n d"]) -> float:
    """The effective rank of features, which are not centred: between 1 and min(n, d).

    The paper adds 1e-7 to each p_k for the logarithm's sake; here 0 log 0 is 0. Features that are
    zero have rank 0.

    Raises:
        ValueError: a feature is not finite.
    """
    singular = singular_values(checked(features))
    total = singular.sum()
    if not total:
        return 0.0
    return torch.special.entr(singular / total).sum().exp().item()


def alpha_req(features: Float[Tensor, "n d"]) -> float:
    """The exponent alpha with which the eigenvalues of the covariance fall.

    It is the slope of log lambda_i over log i by least squares with weights 1 / i, so that each
    octave counts alike (Stringer et al. 2019, as in alpha-ReQ). Only the larger half of the
    eigenvalues enters: the smallest ones of a sample are too small.

    Returns:
        alpha, or NaN where fewer than three eigenvalues enter.

    Raises:
        ValueError: a feature is not finite.
    """
    x = checked(features)
    eigenvalues = singular_values(x - x.mean(0)).square()  # but for a factor, which drops out
    count = int((eigenvalues > SMALLEST * eigenvalues.max()).sum())
    used = (count + 1) // 2
    if used < 3:
        return math.nan
    i = torch.arange(1, used + 1, dtype=x.dtype, device=x.device)
    u, v = i.log(), eigenvalues[:used].log()
    weight = 1 / i / (1 / i).sum()
    u, v = u - weight @ u, v - weight @ v
    return -((weight @ (u * v)) / (weight @ u.square())).item()


def singular_values(x: Float[Tensor, "n d"]) -> Float[Tensor, " k"]:
    """The min(n, d) singular values, the largest first.

    Of large matrices, they are the roots of the eigenvalues of the products of rows or of columns,
    a tenth of the work; those below 1e-8 of the largest, which float32 has not either, are noise.
    """
    if min(x.shape) <= WIDE:
        return torch.linalg.svdvals(x)
    products = x @ x.T if len(x) < x.shape[1] else x.T @ x
    return torch.linalg.eigvalsh(products).clamp_min(0).sqrt().flip(0)


def checked(features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """The features in float64.

    Raises:
        ValueError: one is not finite.
    """
    if not features.isfinite().all():
        raise ValueError("features have values that are not finite: they have no spectrum")
    return features.double()
