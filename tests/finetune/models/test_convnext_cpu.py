"""The blocks of timm's ConvNeXt that run our loops: timm's values and gradients, in float64."""

from copy import deepcopy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from finetune.models.convnext_cpu import Depthwise, GrnMlp, quicken
from tests.support.generators import generator

SMALL: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20), "num_classes": 3}


def model_of(name: str, **changes: Any) -> nn.Module:
    """A small one in which GRN and LayerScale do something."""
    torch.manual_seed(0)
    model = timm.create_model(name, **(SMALL | changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.copy_(torch.randn(parameter.shape) / 2)
    return model


def quick_and_plain(name: str, **changes: Any) -> tuple[nn.Module, nn.Module]:
    plain = model_of(name, **changes).to(memory_format=torch.channels_last)
    quick = deepcopy(plain)
    quicken(quick)
    return quick, plain


def images_of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator(1), dtype=torch.float64)


# atto has 1 x 1 convolutions in its MLP, tiny linear layers. Maps of 22 x 33 have a common divisor
# of 11, those after them of 1, so that patches of all sizes come up.
@pytest.mark.parametrize("name", ["convnextv2_atto", "convnextv2_tiny", "convnext_atto"])
@pytest.mark.parametrize(
    "sides",
    [
        (64, 64),
        pytest.param((96, 32), marks=pytest.mark.slow),  # loops are compiled for each size
        pytest.param((88, 132), marks=pytest.mark.slow),
    ],
)
def test_values_and_gradients_are_timms(name: str, sides: tuple[int, int]) -> None:
    quick, plain = quick_and_plain(name)
    images = images_of(3, 3, *sides)
    found, wanted = quick(images), plain(images)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    found.square().sum().backward()
    wanted.square().sum().backward()
    slopes = dict(plain.named_parameters())
    for each, parameter in quick.named_parameters():
        slope = slopes[each].grad
        assert slope is not None
        assert slope.abs().max() > 0, each
        torch.testing.assert_close(parameter.grad, slope, rtol=1e-8, atol=1e-8)


def test_blocks_learn_by_the_loops_and_keep_their_names() -> None:
    quick, plain = quick_and_plain("convnextv2_atto")
    kinds = [type(module) for module in quick.modules()]
    assert (kinds.count(Depthwise), kinds.count(GrnMlp)) == (4, 4)
    assert list(quick.state_dict()) == list(plain.state_dict())
    seen = quick(images_of(1, 3, 64, 64)).grad_fn
    assert "TapLoopsBackward" in names_of(seen)


def names_of(node: Any) -> set[str]:
    """The operations of a graph."""
    found, left = set[str](), [node]
    while left:
        node = left.pop()
        if node is not None:
            found.add(node.name())
            left += [before for before, _ in node.next_functions]
    return found


def test_without_gradients_every_bit_is_timms() -> None:
    quick, plain = quick_and_plain("convnextv2_atto")
    images = images_of(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(quick(images), plain(images))


def test_a_recorded_graph_is_timms() -> None:
    quick, plain = quick_and_plain("convnextv2_atto")
    images = images_of(2, 3, 64, 64)
    for model in (quick, plain):
        model.eval()
    targets = [
        [str(node.target) for node in torch.export.export(model, (images,)).graph.nodes]
        for model in (quick, plain)
    ]
    assert targets[0] == targets[1]


def test_under_autocast_the_two_agree_to_bfloat16() -> None:
    quick, plain = (model.float() for model in quick_and_plain("convnextv2_atto"))
    images = images_of(2, 3, 64, 64).float()
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = quick(images), plain(images)
    torch.testing.assert_close(found.float(), wanted.float(), rtol=0.05, atol=0.05)


def test_other_models_are_left_alone() -> None:
    model = timm.create_model("resnet18", num_classes=2)
    kinds = [type(module) for module in model.modules()]
    quicken(model)
    assert [type(module) for module in model.modules()] == kinds
