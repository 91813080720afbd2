"""Whitening: features of zero mean and unit covariance.

The features of a masked autoencoder share a few directions of large variance, which drown the rest
in a cosine and slow a linear layer down. A share of the mean variance, the ridge, is added to all
directions, so that empty ones are not blown up. Source: Jegou and Chum, ECCV 2012.
"""

import torch
from jaxtyping import Float
from torch import Tensor

RIDGE = 1e-3  # of the mean variance
WIDE = 2048  # values of a feature, from which on the eigenvectors would take minutes
TINY = 1e-30  # features that do not vary at all stay zero


def whiten(fit: Float[Tensor, "n d"], *others: Float[Tensor, "_ d"]) -> tuple[Tensor, ...]:
    """Zero mean and unit covariance, both measured on `fit`, for it and others."""
    mean = fit.double().mean(0)
    project = whitening(torch.cov((fit - mean).T), RIDGE)
    return tuple(((x - mean) @ project).float() for x in (fit, *others))


def standardise(fit: Float[Tensor, "n d"], *others: Float[Tensor, "_ d"]) -> tuple[Tensor, ...]:
    """Zero mean and unit variance of each feature, both measured on `fit`, for it and others."""
    mean = fit.double().mean(0)
    std = fit.double().std(0).clamp_min(TINY)
    return tuple(((x - mean) / std).float() for x in (fit, *others))


def whitening(covariance: Float[Tensor, "d d"], ridge: float) -> Float[Tensor, "d d"]:
    """The projection to unit covariance; `ridge` mean variances are added to all directions.

    It is that of PCA, or for more than `WIDE` values the triangular one of Cholesky, a tenth of the
    work. They differ by a rotation alone, so that cosines are the same, and what a linear layer
    learns.
    """
    if len(covariance) > WIDE:
        one = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        added = (ridge * covariance.diagonal().mean()).clamp_min(TINY)
        factor = torch.linalg.cholesky(covariance + added * one)
        return torch.linalg.solve_triangular(factor.T, one, upper=True)
    variance, directions = torch.linalg.eigh(covariance)
    return directions / (variance + ridge * variance.mean()).clamp_min(TINY).sqrt()
