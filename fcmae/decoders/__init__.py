"""Decoders, which predict hidden patches from the features of visible ones: one file per kind."""

import torch
from torch import nn

from fcmae.decoders.plain import Decoder
from fcmae.decoders.unet import UNet
from fcmae.layers import initialise
from fcmae.model_config import ModelConfig


def make_decoder(config: ModelConfig, generator: torch.Generator | None = None) -> nn.Module:
    """Make the decoder of a model, with initial weights.

    Args:
        config: of the model.
        generator: source of the initial weights; the global one by default.
    """
    pixels = config.patch_size**2 * config.in_chans
    if config.decoder == "unet":
        decoder = UNet(
            scales=config.scales,
            dim=config.decoder_dim,
            patch_size=config.patch_size,
            in_chans=config.in_chans,
        )
    elif config.attends:
        from fcmae.decoders.transformer import TransformerDecoder  # timm: seconds

        return TransformerDecoder(
            dim_in=config.dim,
            dim=config.decoder_dim,
            depth=config.decoder_blocks,
            pixels=pixels,
            generator=generator,
        )
    else:
        decoder = Decoder(
            dim_in=config.dim, dim=config.decoder_dim, depth=config.decoder_blocks, pixels=pixels
        )
    initialise(decoder, generator)
    for name, parameter in decoder.named_parameters():
        if name.endswith("token"):
            nn.init.trunc_normal_(parameter, std=0.02, generator=generator)
    return decoder
