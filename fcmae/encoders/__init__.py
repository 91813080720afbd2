"""Encoders of visible patches, whatever the network: one contract, one file per kind."""

import torch

from fcmae.architecture import Architecture
from fcmae.encoder import Encoder
from fcmae.layers import initialise
from fcmae.visible_encoder import VisibleEncoder


def make_encoder(
    architecture: Architecture, sparse: str, generator: torch.Generator | None = None
) -> VisibleEncoder:
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
