"""Classifiers in closed form: least squares solves its equations, means are near to their own."""

import torch
from torch.nn import functional as F

from finetune.frozen.few import nearest_mean, ridge
from finetune.frozen.whitening import standardise
from tests.support.generators import generator

LABELS = torch.tensor([0, 1, 2] * 4)


def features() -> tuple[torch.Tensor, torch.Tensor]:
    """Twelve rows to learn from, and five others."""
    drawn = torch.randn(17, 7, generator=generator())
    return drawn[:12], drawn[12:]


def test_ridge_solves_the_normal_equations() -> None:
    x, unseen = features()
    centred = (x - x.mean(0)).double()
    wanted = F.one_hot(LABELS, 3).double()
    strength = 0.3 * centred.square().sum(1).mean()
    weights = torch.linalg.solve(
        centred.T @ centred + strength * torch.eye(7, dtype=torch.float64),
        centred.T @ (wanted - wanted.mean(0)),
    )
    expected = (unseen - x.mean(0)).double() @ weights + wanted.mean(0)
    found = ridge(x, LABELS, 3, unseen, 0.3)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)  # in float32


def test_the_nearest_mean_is_that_of_the_own_class_whatever_the_length() -> None:
    axes = torch.eye(3)[LABELS]
    scores = nearest_mean(axes * torch.arange(1, 13)[:, None], LABELS, 3, 5 * torch.eye(3))
    assert scores.argmax(1).tolist() == [0, 1, 2]
    torch.testing.assert_close(scores.diagonal(), torch.full((3,), 10.0))  # a cosine of 1


def test_standardised_features_have_unit_variance_by_the_first() -> None:
    x, unseen = features()
    x[:, 0] = 2.0  # does not vary
    fit, other = standardise(x, unseen)
    torch.testing.assert_close(fit[:, 1:].std(0), torch.ones(6))
    torch.testing.assert_close(fit.mean(0), torch.zeros(7), rtol=0, atol=1e-6)
    torch.testing.assert_close(other[:, 3], (unseen[:, 3] - x[:, 3].mean()) / x[:, 3].std())
