"""Encoders of visible patches, whatever the network: one contract, one file per kind."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fcmae.architecture import Architecture
from fcmae.encoder import Encoder
from fcmae.layers import initialise


@runtime_checkable
class VisibleEncoder(Protocol):
    """What a masked autoencoder asks of its encoder, which is a module too.

    Whatever the pixels of hidden patches are, they change no feature, no gradient, no statistic.
    """

    patch_size: int
    """Side of a patch in pixels: the encoder's total stride."""
    dim: int
    """Number of channels of a feature."""
    forward: Callable[
        [Float[Tensor, "b c h w"], Bool[Tensor, "b n"], int | None], Float[Tensor, "b v d"]
    ]
    """The features of the v visible patches of images, in raster order."""
    scales: Callable[
        [Float[Tensor, "b c h w"], Bool[Tensor, "b n"], int | None],
        list[Float[Tensor, "b v _ _ _"]],
    ]
    """The features of the visible patches on each scale of the architecture, the finest one first;
    `forward` gives those of the last, where a patch is one site."""


def make_encoder(
    architecture: Architecture, sparse: str, generator: torch.Generator | None = None
) -> nn.Module:
    """Make the encoder that an architecture names, with initial weights.

    Args:
        architecture: the encoder, and its images.
        sparse: implementation of the sparse operations of ConvNeXt.
        generator: source of the initial weights; the global one by default.

    Raises:
        ValueError: there is no such encoder or implementation.
    """
    if architecture.of_timm:
        from fcmae.encoders.masked_convnet import MaskedConvNet  # timm: seconds

        return MaskedConvNet(architecture, generator)
    if architecture.is_vit:
        from fcmae.encoders.masked_vit import MaskedVit  # timm: seconds

        return MaskedVit(architecture, generator)
    if architecture.is_convmae:
        from fcmae.encoders.convmae import ConvMAE  # timm: seconds

        return ConvMAE(architecture, sparse, generator)
    encoder = Encoder(architecture, sparse)
    initialise(encoder, generator)
    return encoder
