"""The fully convolutional masked autoencoder (ConvNeXt V2, arXiv 2301.00808, section 3)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fcmae.decoder import Decoder
from fcmae.encoder import Encoder
from fcmae.layers import initialise
from fcmae.loss import reconstruction_loss
from fcmae.masking import patch_grid, visible_count


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The arguments of `FCMAE`."""

    name: str = "convnextv2_atto"
    """convnextv2_ or convnext_ (V1), and atto femto pico nano tiny base large or huge."""
    image_size: int | tuple[int, int] = 224
    """Side, or height and width, in pixels; multiples of the patch side 8 x stem_stride."""
    in_chans: int = 3
    """Channels of the images."""
    stem_stride: int = 4
    """4, 2 or 1: patches of 32, 16 or 8 pixels; small ones for small images."""
    ratio: float = 0.6
    """Share of the patches hidden from the encoder."""
    sparse: Literal["gathered", "reference", "minkowski"] = "gathered"
    """Implementation of the sparse operations: the fast one, the slow oracle, MinkowskiEngine."""
    decoder_dim: int = 512
    """Width of the decoder."""
    decoder_depth: int = 1
    """Blocks of the decoder."""


class FCMAE(nn.Module):
    """Sparse encoder, one-block decoder, reconstruction loss.

    Args:
        name: `convnextv2_atto` ... `convnextv2_huge`, or `convnext_*` with LayerScale.
        image_size: side in pixels, or (height, width); multiples of the patch side 8 x stem_stride.
        in_chans: channels of the images.
        stem_stride: 4, 2 or 1; small for small images.
        ratio: share of patches hidden from the encoder.
        sparse: `gathered`, `reference`, the slow oracle, or `minkowski`, where it is installed.
        decoder_dim: width of the decoder.
        decoder_depth: its blocks.
        generator: of the initialisation; the global one by default.

    Raises:
        ValueError: an argument outside its range; the message names it and a way out.
    """

    def __init__(
        self,
        *,
        name: str = "convnextv2_atto",
        image_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        stem_stride: int = 4,
        ratio: float = 0.6,
        sparse: str = "gathered",
        decoder_dim: int = 512,
        decoder_depth: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(name=name, in_chans=in_chans, stem_stride=stem_stride, sparse=sparse)
        self.patch_size = self.encoder.patch_size
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.grid = patch_grid(*self.image_size, self.patch_size)
        self.n = self.grid[0] * self.grid[1]
        self.ratio = ratio
        self.v = visible_count(self.n, ratio)
        if self.v == self.n:
            raise ValueError(
                f"ratio={ratio} hides none of {self.n} patches, so there is nothing to predict;"
                " raise it above 0; 0.6 is usual"
            )
        self.decoder = Decoder(
            dim_in=self.encoder.dim,
            dim=decoder_dim,
            depth=decoder_depth,
            outputs=self.patch_size**2 * in_chans,
        )
        initialise(self, generator)
        nn.init.trunc_normal_(self.decoder.token, std=0.02, generator=generator)

    def forward(
        self, images: Float[Tensor, "b c h w"], visible: Bool[Tensor, "b n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b k ppc"]]:
        """Loss, and the predicted normalised pixels of the hidden patches in raster order.

        Args:
            images: of the size that the model was made for.
            visible: int(n (1 - ratio)) True in each row; True = the encoder sees the patch.

        Raises:
            ValueError: other shapes or numbers of visible patches.
        """
        if images.shape[2:] != self.image_size:
            raise ValueError(
                f"images are {tuple(images.shape[2:])}, the model was made for {self.image_size}:"
                " resize them, or pass image_size"
            )
        latent = self.encoder(images, visible, self.v)
        prediction = self.decoder(latent, visible, self.grid)
        return reconstruction_loss(prediction, images, visible, self.patch_size), prediction
