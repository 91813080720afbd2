"""Masked autoencoders: of ConvNets (FCMAE, arXiv 2301.00808), of ViTs (MAE, arXiv 2111.06377)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fcmae.contrast import Contrast, pooled
from fcmae.contrast_config import ContrastConfig
from fcmae.decoders import make_decoder
from fcmae.decoders.unet import UNet
from fcmae.encoders import make_encoder
from fcmae.loss import ReconstructionLoss
from fcmae.model_config import DecoderKind, Implementation, ModelConfig


class FCMAE(nn.Module):
    """A masked autoencoder: sparse encoder, decoder, reconstruction loss, and a second term.

    Args:
        name: the encoder, `convnextv2_atto` ... `convnextv2_huge`, `convnext_*` (V1), `convnextv2`
            or `convnext` with depths and widths of your own, `timm:NAME` for any ConvNet of timm,
            or `mae_vit_tiny` ... `mae_vit_large`, which MAE's decoder follows.
        image_size: side of the images in pixels, or (height, width): multiples of the patch side,
            which is 8 x stem_stride, and 4 x stem_stride of `mae_vit_*`.
        in_chans: number of channels of the images.
        stem_stride: 4, 2 or 1, for patches of 32, 16 or 8 pixels, and of 16, 8 or 4 in `mae_vit_*`;
            small images need small patches.
        depths: numbers of blocks of the four stages of a ConvNeXt; by default those of its size.
        widths: numbers of channels of the four stages of a ConvNeXt; by default those of its size.
        ratio: share of the patches that are hidden from the encoder.
        sparse: implementation of the sparse operations: `gathered`, the fast one; `reference`, a
            slow and plain one; or `minkowski`, which needs MinkowskiEngine.
        decoder: `plain`, which takes the features of the encoder's last stage, FCMAE's or MAE's; or
            `unet`, SparK's, which takes those of up to four scales.
        decoder_dim: number of channels of the decoder; of the unet, those of its coarsest map.
        decoder_depth: number of blocks of the decoder; by default 1, and 8 of MAE's.
        contrast: the contrastive term beside the reconstruction; by default there is none.
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
        decoder: DecoderKind = ModelConfig.decoder,
        decoder_dim: int = ModelConfig.decoder_dim,
        decoder_depth: int | None = ModelConfig.decoder_depth,
        contrast: ContrastConfig = ModelConfig.contrast,
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
            decoder=decoder,
            decoder_dim=decoder_dim,
            decoder_depth=decoder_depth,
            contrast=contrast,
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
        self.loss = ReconstructionLoss(self.patch_size)
        self.contrast = Contrast(config.dim, contrast, generator) if contrast.weight else None

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
    ) -> (
        tuple[Float[Tensor, ""], Float[Tensor, "b k ppc"]]
        | tuple[Float[Tensor, ""], Float[Tensor, "b k ppc"], dict[str, Float[Tensor, ""]]]
    ):
        """Compute the loss and the prediction of what is hidden.

        The loss is the reconstruction's. In training with a contrastive term, its weighted value is
        added, and a third result has both terms.

        Args:
            images: images of the size that the model was made for; in training with a contrastive
                term two views of each sample, one after the other.
            visible: True where the encoder sees the patch: int(n (1 - ratio)) True in each row.

        Returns:
            The loss, and the predicted normalised pixels of the k hidden patches in raster order;
            with both terms also these, as `reconstruction` and `contrast`, and what `Contrast`
            measures.

        Raises:
            ValueError: the images have another size, or rows another number of visible patches; or
                see `Contrast.forward`.
        """
        if images.shape[2:] != self.image_size:
            raise ValueError(
                f"images are {tuple(images.shape[2:])}, the model was made for {self.image_size}:"
                " resize them, or pass image_size"
            )
        latent = self.encode(images, visible)
        prediction = self.decoder(latent, visible, self.grid)
        reconstruction = self.loss(prediction, images, visible)
        if self.contrast is None or not self.training:
            return reconstruction, prediction
        contrast, figures = self.contrast(pooled(latent))
        loss = reconstruction + self.contrast.weight * contrast
        terms = {"reconstruction": reconstruction.detach(), "contrast": contrast.detach()}
        return loss, prediction, terms | figures

    def encode(
        self, images: Float[Tensor, "b c h w"], visible: Bool[Tensor, "b n"]
    ) -> Float[Tensor, "b v d"] | list[Float[Tensor, "b v _ _ _"]]:
        """Compute what the decoder takes: the features of the last scale, or those of each.

        Args:
            images: see `forward`.
            visible: see `forward`.
        """
        if isinstance(self.decoder, UNet):
            return self.encoder.scales(images, visible, self.v)
        return self.encoder(images, visible, self.v)
