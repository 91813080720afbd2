"""Masked autoencoders: of ConvNets (FCMAE, arXiv 2301.00808), of ViTs (MAE, arXiv 2111.06377)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fcmae.architecture import Implementation, ModelConfig
from fcmae.decoder import Decoder
from fcmae.encoders import make_encoder
from fcmae.layers import initialise
from fcmae.loss import reconstruction_loss


class FCMAE(nn.Module):
    """A masked autoencoder: sparse encoder, plain decoder, reconstruction loss.

    Args:
        name: the encoder, `convnextv2_atto` ... `convnextv2_huge`, `convnext_*` (V1), `convnextv2`
            or `convnext` with depths and widths of your own, `timm:NAME` for any ConvNet of timm,
            or `mae_vit_tiny` ... `mae_vit_large`, which MAE's decoder follows.
        image_size: side of the images in pixels, or (height, width): multiples of the patch side,
            which is 8 x stem_stride of a ConvNeXt.
        in_chans: number of channels of the images.
        stem_stride: 4, 2 or 1, for patches of 32, 16 or 8 pixels; small images need small patches.
        depths: numbers of blocks of the four stages of a ConvNeXt; by default those of its size.
        widths: numbers of channels of the four stages of a ConvNeXt; by default those of its size.
        ratio: share of the patches that are hidden from the encoder.
        sparse: implementation of the sparse operations: `gathered`, the fast one; `reference`, a
            slow and plain one; or `minkowski`, which needs MinkowskiEngine.
        decoder_dim: number of channels of the decoder.
        decoder_depth: number of blocks of the decoder; by default 1, and 8 of MAE's.
        generator: source of the random initial weights; the global one by default.

    Raises:
        ValueError: an argument is out of range; the message names it and a way out.
    """

    def __init__(
        self,
        *,
        name: str = ModelConfig.name,
        image_size: int | tuple[int, int] = ModelConfig.image_size,
        in_chans: int = ModelConfig.in_chans,
        stem_stride: int = ModelConfig.stem_stride,
        depths: tuple[int, int, int, int] | None = ModelConfig.depths,
        widths: tuple[int, int, int, int] | None = ModelConfig.widths,
        ratio: float = ModelConfig.ratio,
        sparse: Implementation = ModelConfig.sparse,
        decoder_dim: int = ModelConfig.decoder_dim,
        decoder_depth: int | None = ModelConfig.decoder_depth,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        config = ModelConfig(
            name=name,
            image_size=image_size,
            in_chans=in_chans,
            stem_stride=stem_stride,
            depths=depths,
            widths=widths,
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
        self.encoder = make_encoder(config, sparse, generator)
        self.decoder = make_decoder(config, generator)

    @classmethod
    def from_config(
        cls, config: ModelConfig, *, generator: torch.Generator | None = None
    ) -> "FCMAE":
        """Make the model that `config` describes, with initial weights drawn by `generator`.

        Raises:
            ValueError: a field of the config is out of range; the message names it and a way out.
        """
        return cls(**vars(config), generator=generator)

    def forward(
        self, images: Float[Tensor, "b c h w"], visible: Bool[Tensor, "b n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b k ppc"]]:
        """Compute the reconstruction loss and the prediction that it is of.

        Args:
            images: images of the size that the model was made for.
            visible: True where the encoder sees the patch: int(n (1 - ratio)) True in each row.

        Returns:
            The loss, and the predicted normalised pixels of the k hidden patches in raster order.

        Raises:
            ValueError: the images have another size, or rows another number of visible patches.
        """
        if images.shape[2:] != self.image_size:
            raise ValueError(
                f"images are {tuple(images.shape[2:])}, the model was made for {self.image_size}:"
                " resize them, or pass image_size"
            )
        latent = self.encoder(images, visible, self.v)
        prediction = self.decoder(latent, visible, self.grid)
        return reconstruction_loss(prediction, images, visible, self.patch_size), prediction


def make_decoder(config: ModelConfig, generator: torch.Generator | None = None) -> nn.Module:
    """Make the decoder of a model, with initial weights.

    Args:
        config: of the model.
        generator: source of the initial weights; the global one by default.
    """
    pixels = config.patch_size**2 * config.in_chans
    if config.attends:
        from fcmae.transformer_decoder import TransformerDecoder  # timm: seconds

        return TransformerDecoder(
            dim_in=config.dim,
            dim=config.decoder_dim,
            depth=config.decoder_blocks,
            pixels=pixels,
            generator=generator,
        )
    decoder = Decoder(
        dim_in=config.dim, dim=config.decoder_dim, depth=config.decoder_blocks, pixels=pixels
    )
    initialise(decoder, generator)
    nn.init.trunc_normal_(decoder.token, std=0.02, generator=generator)
    return decoder
