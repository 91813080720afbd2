"""The effective rank and the decay of a spectrum, against spectra that are known."""

import math

import pytest
import torch

from fcmae import spectrum
from fcmae.spectrum import alpha_req, rankme


def features_of(singular: torch.Tensor, n: int = 64, d: int = 96, *, seed: int = 0) -> torch.Tensor:
    """Features [n, d] with these singular values, whose mean is zero."""
    generator = torch.Generator().manual_seed(seed)
    k = len(singular)
    left = torch.randn(n, k, generator=generator, dtype=torch.float64)
    left, _ = torch.linalg.qr(left - left.mean(0))
    right, _ = torch.linalg.qr(torch.randn(d, k, generator=generator, dtype=torch.float64))
    return left * singular @ right.T


def test_rankme_is_the_exponential_of_the_entropy() -> None:
    singular = torch.tensor([4.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    entropy = -sum(p * math.log(p) for p in (1 / 2, 1 / 4, 1 / 8, 1 / 8))
    assert rankme(features_of(singular)) == pytest.approx(math.exp(entropy))


@pytest.mark.parametrize("k", [1, 3, 17])
def test_features_of_rank_k_have_an_effective_rank_of_at_most_k(k: int) -> None:
    assert rankme(features_of(torch.ones(k))) == pytest.approx(k)
    uneven = torch.rand(64, k) @ torch.rand(k, 96)
    assert 1 <= rankme(uneven) <= k + 1e-3


def test_rankme_is_not_centred() -> None:
    spread = features_of(torch.ones(8))
    assert rankme(spread + 100) < 2 < rankme(spread)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
def test_a_power_law_gives_its_exponent_back(alpha: float) -> None:
    i = torch.arange(1, 41, dtype=torch.float64)
    features = features_of(i ** (-alpha / 2))
    assert alpha_req(features) == pytest.approx(alpha)
    assert alpha_req(features + torch.rand(96)) == pytest.approx(alpha)  # covariance is centred


def test_alpha_is_the_slope_of_all_octaves_alike() -> None:
    i = torch.arange(1, 17, dtype=torch.float64)
    bent = torch.where(i < 4, 1.0, 4 / i)  # flat at first, then 1/i; of 16, 8 enter
    u, v, w = i[:8].log(), bent[:8].log(), 1 / i[:8]
    x = torch.stack([u, torch.ones_like(u)], dim=1)
    slope, _ = torch.linalg.solve(x.T * w @ x, x.T @ (w * v))
    assert alpha_req(features_of(bent.sqrt())) == pytest.approx(-slope.item())


@pytest.mark.parametrize("measure", [rankme, alpha_req])
def test_neither_rotation_nor_scale_matters(measure) -> None:
    features = torch.randn(50, 30, dtype=torch.float64) * torch.rand(30)
    rotation, _ = torch.linalg.qr(torch.randn(30, 30, dtype=torch.float64))
    assert measure(1e-4 * features @ rotation) == pytest.approx(measure(features))


def test_features_without_a_spectrum() -> None:
    assert rankme(torch.zeros(5, 7)) == 0
    assert math.isnan(alpha_req(torch.zeros(5, 7)))
    assert math.isnan(alpha_req(torch.randn(4, 7)))  # three eigenvalues, two of which enter
    for measure in (rankme, alpha_req):
        with pytest.raises(ValueError, match="not finite"):
            measure(torch.tensor([[1.0, math.nan]]))


@pytest.mark.parametrize("shape", [(64, 96), (96, 64)])
def test_spectra_of_wide_features_are_taken_of_products(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = features_of(torch.arange(1.0, 33) ** -0.7, *shape)
    expected = rankme(x), alpha_req(x)
    monkeypatch.setattr(spectrum, "WIDE", 63)
    assert (rankme(x), alpha_req(x)) == pytest.approx(expected, rel=1e-4)
