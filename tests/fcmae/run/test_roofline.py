"""The operations of a step's products, and how fast a device does one of them."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from fcmae.run.roofline import flops_per_s, name_of, product_flops


def flops(model: nn.Module, *shape: int) -> float:
    return product_flops(model, (torch.randn(*shape),), nullcontext)


def test_a_linear_layer_has_three_products_and_the_first_one_two() -> None:
    # y = W x, and dL/dW; nothing needs the gradient of the first layer's input
    assert flops(nn.Linear(5, 7), 3, 5) == 2 * 2 * 3 * 5 * 7
    two = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 2))
    assert flops(two, 3, 5) == 2 * (2 * 3 * 5 * 7 + 3 * 3 * 7 * 2)


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_count_as_the_products_that_they_are(groups: int) -> None:
    conv = nn.Conv2d(4, 8, kernel_size=3, groups=groups)
    assert flops(conv, 2, 4, 10, 6) == 2 * 2 * 2 * (8 * 4) * (4 // groups) * 8 * 9


def test_depthwise_convolutions_are_none() -> None:
    assert flops(nn.Conv2d(4, 4, kernel_size=7, padding=3, groups=4), 2, 4, 10, 6) == 0


def test_the_first_output_is_differentiated() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4)
            self.two = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.one(x), self.two(x)

    assert flops(Both(), 1, 4) == 2 * 4 * 4 * (2 + 1)


def test_a_device_has_a_name_and_a_speed() -> None:
    device = torch.device("cpu")
    assert name_of(device).startswith("cpu with ")
    assert 1e8 < flops_per_s(device, torch.float32) < 1e14
