"""What users choose of a model: the encoder, what is hidden from it, the decoder, the terms.

A help text shows it without torch.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from fcmae import vits
from fcmae.architecture import Architecture
from fcmae.contrast_config import OFF, ContrastConfig
from fcmae.patches import visible_count
from fcmae.run.ranges import Depth, Extent, ShareBelow1

Implementation = Literal["gathered", "reference", "minkowski"]
DecoderKind = Literal["plain", "unet"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Architecture):
    """The arguments of `FCMAE`: the encoder, what is hidden from it, the decoder, the terms."""

    ratio: ShareBelow1 = 0.6
    """Share of the patches that are hidden from the encoder, from 0 to below 1."""
    sparse: Implementation = "gathered"
    """Implementation of the sparse operations: gathered is fast, reference is slow and plain, and
    minkowski uses MinkowskiEngine."""
    decoder: DecoderKind = "plain"
    """plain takes the features of the encoder's last stage: FCMAE's decoder of one block, or MAE's
    of mae_vit. unet is SparK's, which takes the features of up to four resolutions and ends in
    pixels; a step of a small encoder takes 3 to 7 times as long with it."""
    decoder_dim: Extent = 512
    """Number of channels of the decoder; of the unet, those of its coarsest map, a multiple of the
    patch side: 768 in SparK, for large encoders."""
    decoder_depth: Depth | None = None
    """Number of blocks of the decoder; by default 1, and 8 of MAE's decoder, which mae_vit has. The
    unet has as many as the resolution is doubled, and no other number."""
    contrast: ContrastConfig = OFF

    @property
    def visible_patches(self) -> int:
        """Number v of the patches of an image that the encoder sees.

        Raises:
            ValueError: patches do not tile the images, or the ratio leaves none visible.
        """
        return visible_count(self.patches, self.ratio)

    @property
    def decoder_blocks(self) -> int:
        """Number of blocks of the decoder: as many as its papers have unless it is given."""
        if self.decoder_depth is not None:
            return self.decoder_depth
        if self.decoder == "unet":
            return self.patch_size.bit_length() - 1
        return vits.DECODER_DEPTH if self.attends else 1

    def check(self) -> None:
        """Check the encoder, that some patches are visible and some hidden, and the decoder.

        Raises:
            ValueError: a value is out of range; the message names it, the rule and a way out.
        """
        super().check()
        if self.visible_patches == self.patches:
            raise ValueError(
                f"ratio={self.ratio} hides none of {self.patches} patches, so there is nothing to"
                " predict; raise it above 0; 0.6 is usual"
            )
        if self.decoder_dim < 1:
            raise ValueError(f"decoder_dim={self.decoder_dim} must be at least 1")
        if self.attends and self.decoder == "plain" and self.decoder_dim % vits.HEAD:
            raise ValueError(
                f"decoder_dim={self.decoder_dim} must be a multiple of {vits.HEAD}, the width of a"
                " head of MAE's decoder; 512 is usual"
            )
        if self.decoder_blocks < 0:
            raise ValueError(f"decoder_depth={self.decoder_depth} must be at least 0")
        if self.is_vit and self.sparse != ModelConfig.sparse:
            raise ValueError(
                f"sparse={self.sparse!r} is for convnextv2 and convnext: {self.name} drops hidden"
                " patches, and needs none"
            )
        if self.decoder not in get_args(DecoderKind):
            raise ValueError(f"decoder={self.decoder!r} is none of plain, unet")
        if self.decoder == "unet":
            self.check_unet()

    def check_unet(self) -> None:
        """Check that blocks that double the resolution, and halve the channels, end in pixels.

        Raises:
            ValueError: a value is out of range; the message names it, the rule and a way out.
        """
        p = self.patch_size
        if p & (p - 1):
            raise ValueError(
                f"decoder='unet' doubles the resolution up to the pixels: patch_size={p} of"
                f" {self.name} is no power of 2; take decoder='plain'"
            )
        if self.decoder_depth not in (None, p.bit_length() - 1):
            raise ValueError(
                f"decoder_depth={self.decoder_depth} is for decoder='plain': a unet has log2"
                f" patch_size = {p.bit_length() - 1} blocks; leave it out"
            )
        if self.decoder_dim % p:
            above = -(-self.decoder_dim // p) * p
            raise ValueError(
                f"decoder_dim={self.decoder_dim} must be a multiple of patch_size={p} with"
                f" decoder='unet', whose blocks halve it; try {above}"
            )
