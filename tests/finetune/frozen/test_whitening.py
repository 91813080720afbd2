"""Whitening of wide features, by Cholesky, is that of narrow ones but for a rotation."""

import pytest
import torch

from finetune.frozen import whitening
from finetune.frozen.whitening import whiten
from tests.support.generators import generator


@pytest.mark.parametrize("n", [200, 12])  # more samples than values, and fewer
def test_wide_features_get_the_products_of_narrow_ones(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixing = torch.randn(40, 40, generator=generator())
    fit, other = (torch.randn(m, 40, generator=generator(m)) @ mixing + 3 for m in (n, 7))
    narrow = whiten(fit, other)
    monkeypatch.setattr(whitening, "WIDE", 39)
    wide = whiten(fit, other)
    assert not torch.allclose(wide[0], narrow[0])
    for found, expected in zip(wide, narrow, strict=True):
        torch.testing.assert_close(found @ found.T, expected @ expected.T, rtol=1e-3, atol=1e-3)


def test_wide_features_that_do_not_vary_stay_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whitening, "WIDE", 3)
    assert not torch.cat(whiten(torch.ones(5, 4), torch.ones(2, 4))).any()
