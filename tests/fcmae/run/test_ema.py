"""The average of the encoder's weights."""

import pytest
import torch

from fcmae.run.ema import Ema


def test_the_average_follows_its_equation() -> None:
    module = torch.nn.Linear(3, 2)
    ema = Ema(module, 0.9)
    expected = module.weight.detach().clone()
    for step in range(100):
        with torch.no_grad():
            module.weight.add_(torch.randn(2, 3))
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.detach()
    torch.testing.assert_close(ema.averages["weight"], expected)


def test_averages_have_the_names_that_a_checkpoint_gives_them() -> None:
    assert set(Ema(torch.nn.Linear(3, 2), 0.9, "encoder.").averages) == {
        "encoder.weight",
        "encoder.bias",
    }


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_averages_nothing_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"optim\.ema=.* must lie in \[0, 1\)"):
        Ema(torch.nn.Linear(3, 2), decay)
