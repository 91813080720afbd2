"""Encoders of different implementations with the same weights, and how they are compared."""

import pytest
import torch
from torch import Tensor

from fcmae.architecture import Architecture
from fcmae.encoder import Encoder
from tests.support.generators import generator


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """Give every parameter, GRN's and LayerScale's included, a value that matters."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            parameter.add_(0.1 * noise)


def twins(
    dtype: torch.dtype = torch.float64, sparse: str = "gathered", **kwargs: object
) -> tuple[Encoder, Encoder]:
    architecture = Architecture(**kwargs)  # type: ignore[arg-type]
    reference = Encoder(architecture, "reference").to(dtype)
    twin = Encoder(architecture, sparse).to(dtype)
    randomise(reference)
    twin.load_state_dict(reference.state_dict())
    return reference, twin


def value_and_gradients(
    encoder: Encoder, images: Tensor, visible: Tensor, weights: Tensor
) -> dict[str, Tensor]:
    images = images.clone().requires_grad_()
    features = encoder(images, visible)
    (features * weights).sum().backward()
    result = {"features": features.detach(), "images": images.grad}
    result |= {name: parameter.grad for name, parameter in encoder.named_parameters()}
    return result  # type: ignore[return-value]


def assert_twins_agree(
    reference: Encoder, gathered: Encoder, images: Tensor, visible: Tensor, tolerance: float
) -> None:
    weights = torch.randn(
        len(images), int(visible[0].sum()), reference.dim, generator=generator(9)
    ).to(images.dtype)
    expected = value_and_gradients(reference, images, visible, weights)
    for name, found in value_and_gradients(gathered, images, visible, weights).items():
        scale = expected[name].abs().max()
        assert (found - expected[name]).abs().max() <= tolerance * scale, name


# Two and three patches wide, as are the images of other tests: each further width takes the Numba
# loops of four stages to compile.
every_shape = pytest.mark.parametrize(
    ("ratio", "height", "width", "in_chans", "stem_stride", "b"),
    [
        (0.0, 64, 64, 3, 4, 2),
        (0.6, 160, 96, 3, 4, 2),
        (0.75, 128, 64, 1, 4, 1),
        (0.6, 64, 48, 13, 2, 2),
        (0.75, 40, 24, 3, 1, 3),
        (0.6, 32, 24, 1, 1, 2),
    ],
)
