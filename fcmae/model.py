"""The fully convolutional masked autoencoder (ConvNeXt V2, arXiv 2301.00808, section 3)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fcmae.architecture import Implementation, ModelConfig
from fcmae.decoder import Decoder
from fcmae.encoder import Encoder
from fcmae.layers import initialise
from fcmae.loss import reconstruction_loss


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
        name: str = ModelConfig.name,
        image_size: int | tuple[int, int] = ModelConfig.image_size,
        in_chans: int = ModelConfig.in_chans,
        stem_stride: int = ModelConfig.stem_stride,
        ratio: float = ModelConfig.ratio,
        sparse: Implementation = ModelConfig.sparse,
        decoder_dim: int = ModelConfig.decoder_dim,
        decoder_depth: int = ModelConfig.decoder_depth,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        config = ModelConfig(
            name=name,
            image_size=image_size,
            in_chans=in_chans,
            stem_stride=stem_stride,
            ratio=ratio,
            sparse=sparse,
            decoder_dim=decoder_dim,
            decoder_depth=decoder_depth,
        )
        config.check()
        self.patch_size = config.patch_size
        self.image_size = config.sides
        self.grid = config.grid
        self.n = config.patches
        self.ratio = ratio
        self.v = config.visible_patches
        self.encoder = Encoder(config, sparse)
        self.decoder = Decoder(
            dim_in=self.encoder.dim,
            dim=decoder_dim,
            depth=decoder_depth,
            pixels=self.patch_size**2 * in_chans,
        )
        initialise(self, generator)
        nn.init.trunc_normal_(self.decoder.token, std=0.02, generator=generator)

    @classmethod
    def from_config(
        cls, config: ModelConfig, *, generator: torch.Generator | None = None
    ) -> "FCMAE":
        """The model that `config` tells of, initialised by `generator`.

        Raises:
            ValueError: see `ModelConfig.check` and `fcmae.sparse.implementation`.
        """
        return cls(**vars(config), generator=generator)

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
