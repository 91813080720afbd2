"""The encoders and their sizes, the patches of an image, and the rules that all of them follow.

Everything that makes, reads or plans a network asks here. This module does not import torch, so
that a help text or a plan does not load it.

Letters: p patch side in pixels, n = (h/p)(w/p) patches, v visible patches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from fcmae import convmaes, vits
from fcmae.contrast_config import OFF, ContrastConfig
from fcmae.networks import PREFIX, Network, network
from fcmae.run.ranges import Depth, DepthFrom1, Extent, ShareBelow1

Implementation = Literal["gathered", "reference", "minkowski"]
DecoderKind = Literal["plain", "unet"]


@dataclass(frozen=True)
class Size:
    """Numbers of blocks (depths) and of channels (widths) of the four stages."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]


@dataclass(frozen=True)
class Scale:
    """A resolution at which an encoder has features of the visible patches."""

    side: int
    """Side s of a patch in sites, a power of 2; 1 on the last scale."""
    width: int
    """Number of channels."""


# ConvNeXt V2, table 9 (appendix A.1); small and xlarge are V1's alone in the papers (section 3).
SIZES = {
    "atto": Size((2, 2, 6, 2), (40, 80, 160, 320)),
    "femto": Size((2, 2, 6, 2), (48, 96, 192, 384)),
    "pico": Size((2, 2, 6, 2), (64, 128, 256, 512)),
    "nano": Size((2, 2, 8, 2), (80, 160, 320, 640)),
    "tiny": Size((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": Size((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": Size((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": Size((3, 3, 27, 3), (192, 384, 768, 1536)),
    "xlarge": Size((3, 3, 27, 3), (256, 512, 1024, 2048)),
    "huge": Size((3, 3, 27, 3), (352, 704, 1408, 2816)),
}
FAMILIES = ("convnextv2", "convnext")
MODELS = [f"{family}_{size}" for family in FAMILIES for size in SIZES]
STEM_STRIDES = (4, 2, 1)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """An encoder, and the images that it is made for.

    It may hold any values; `check` raises an error where no such encoder exists.
    """

    name: str = "convnextv2_atto"
    """The encoder: convnextv2_SIZE, or convnext_SIZE for V1, where SIZE is atto, femto, pico, nano,
    tiny, small, base, large, xlarge or huge; convnextv2 or convnext alone, with depths and widths
    of your own; timm:NAME, any ConvNet of timm; mae_vit_SIZE, MAE's ViT, where SIZE is tiny, small,
    base or large; or convmae_SIZE, ConvMAE's, where SIZE is small, base or large."""
    image_size: Extent | tuple[Extent, Extent] = 224
    """The images' side, or height and width, in pixels: multiples of the patch side, 8 x
    stem_stride (of mae_vit_SIZE and convmae_SIZE 4 x, of timm:NAME the network's stride)."""
    in_chans: Extent = 3
    """Number of channels of the images."""
    stem_stride: Extent = 4
    """4, 2 or 1, for patches of 32, 16 or 8 pixels, and of mae_vit_SIZE and convmae_SIZE
    16, 8 or 4. Small images need small patches. Of timm:NAME, 4 leaves strides as they are, and 2
    or 1 leaves out the first one or two halvings."""
    depths: tuple[DepthFrom1, DepthFrom1, DepthFrom1, DepthFrom1] | None = None
    """Numbers of blocks of the four stages of a ConvNeXt; None for those of its size."""
    widths: tuple[Extent, Extent, Extent, Extent] | None = None
    """Numbers of channels of the four stages of a ConvNeXt; None for those of its size."""

    def __str__(self) -> str:
        own = [f"{name}={value}, " for name, value in self.own.items()]
        return (
            f"{self.name} with {''.join(own)}stem_stride={self.stem_stride} and"
            f" in_chans={self.in_chans}"
        )

    @property
    def own(self) -> dict[str, tuple[int, ...]]:
        """The depths and the widths, by these names, where they are not those of the size."""
        given = {"depths": self.depths, "widths": self.widths}
        return {name: values for name, values in given.items() if values is not None}

    @property
    def of_timm(self) -> bool:
        """Whether the network is one of timm's, run on visible patches as it is."""
        return self.name.startswith(PREFIX)

    @property
    def is_vit(self) -> bool:
        """Whether the encoder is a vision transformer, as MAE pretrains it."""
        return self.name.startswith(vits.PREFIX)

    @property
    def is_convnext(self) -> bool:
        """Whether the encoder is a ConvNeXt of this project, of V1 or V2."""
        return self.family in FAMILIES

    @property
    def is_convmae(self) -> bool:
        """Whether the encoder is ConvMAE's: two stages of convolutions, then a transformer."""
        return self.name.startswith(convmaes.PREFIX)

    @property
    def attends(self) -> bool:
        """Whether patches attend to each other, and the decoder is MAE's."""
        return self.is_vit or self.is_convmae

    @property
    def network(self) -> Network:
        """Facts of one of timm's networks.

        Raises:
            ValueError: there is no such network, or it makes no maps that patches tile.
        """
        return network(self.name.removeprefix(PREFIX), self.stem_stride)

    @property
    def family(self) -> str:
        """The family: `convnextv2`, whose blocks have GRN, or `convnext`, with LayerScale.

        MAE's is `mae_vit`, and that of timm's networks their name.
        """
        if self.is_vit:
            return vits.PREFIX.rstrip("_")
        return self.name.removeprefix(PREFIX) if self.of_timm else self.name.split("_")[0]

    @property
    def has_grn(self) -> bool:
        """Whether the blocks have global response normalisation, as those of V2 have."""
        return self.family == "convnextv2"

    @property
    def size(self) -> Size:
        """Numbers of blocks and of channels of the four stages."""
        if self.depths is not None and self.widths is not None:
            return Size(self.depths, self.widths)
        named = SIZES[self.name.split("_")[1]]
        return Size(self.depths or named.depths, self.widths or named.widths)

    @property
    def dim(self) -> int:
        """Width of the features: the number of channels of the last stage."""
        if self.is_vit:
            return vits.vit(self.name).dim
        if self.is_convmae:
            return convmaes.convmae(self.name).widths[-1]
        if self.of_timm:
            return self.network.dim
        return self.size.widths[-1]

    @property
    def scales(self) -> tuple[Scale, ...]:
        """The resolutions that the encoder's `scales` have, the finest one first: up to four."""
        if self.of_timm:
            widths = self.network.widths
            finer = (Scale(side, widths[level]) for side, level in self.network.finer)
            return (*finer, Scale(1, self.dim))
        if self.is_vit:
            return (Scale(1, self.dim),)
        if self.is_convmae:
            return tuple(map(Scale, (4, 2, 1), convmaes.convmae(self.name).widths))
        return tuple(map(Scale, (8, 4, 2, 1), self.size.widths))

    @property
    def patch_size(self) -> int:
        """Side p of a patch in pixels: the stem's stride, and three downsamplings by 2.

        Of timm's networks, what their strides make.
        """
        if self.is_vit:
            return vits.STRIDES * self.stem_stride
        if self.is_convmae:
            return convmaes.STRIDES * self.stem_stride
        if self.of_timm:
            return self.network.stride
        return 8 * self.stem_stride

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return sides_of(self.image_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Numbers of rows and columns of patches in an image.

        Raises:
            ValueError: patches do not tile the images.
        """
        return patch_grid(*self.sides, self.patch_size)

    @property
    def patches(self) -> int:
        """Number n of patches in an image.

        Raises:
            ValueError: patches do not tile the images.
        """
        rows, columns = self.grid
        return rows * columns

    def same_tensors(self, other: "Architecture") -> bool:
        """Whether the weights of one encoder fit the other, whatever the image sizes are."""
        mine, others = (
            (a.size if a.is_convnext else a.name, a.family, a.in_chans, a.stem_stride)
            for a in (self, other)
        )
        return mine == others

    def check_encoder(self) -> None:
        """Check everything except the image size, which no tensor of an encoder depends on.

        Raises:
            ValueError: a value is out of range; the message names it, the rule and a way out.
        """
        if self.stem_stride not in STEM_STRIDES:
            patches = "16, 8, 4" if self.attends else "32, 16, 8"
            raise ValueError(
                f"stem_stride={self.stem_stride} must be 4, 2 or 1 (patches of {patches})"
            )
        if self.of_timm:
            _ = self.network  # looks it up
        elif self.is_vit:
            vits.vit(self.name)
        elif self.is_convmae:
            convmaes.convmae(self.name)
        elif self.name in FAMILIES:
            if len(self.own) < 2:
                raise ValueError(
                    f"model name={self.name!r} has no size: take {self.name}_atto or a larger one,"
                    " or give both depths and widths, such as 2 2 6 2 and 40 80 160 320"
                )
        elif self.name not in MODELS:
            known = ", ".join(MODELS + vits.NAMES + convmaes.NAMES)
            raise ValueError(f"model name={self.name!r} is none of {known}, and not timm:NAME")
        self.check_own()
        if self.in_chans < 1:
            raise ValueError(f"in_chans={self.in_chans} must be at least 1")

    def check_own(self) -> None:
        """Check the depths and the widths, where they are given.

        Raises:
            ValueError: one of them is below 1, or the network has its own.
        """
        for name, values in self.own.items():
            if not self.is_convnext:
                raise ValueError(
                    f"{name}={values} is for convnextv2 and convnext: {self.name} has its own"
                )
            if min(values) < 1:
                raise ValueError(f"{name}={values} must be at least 1 in each of the four stages")

    def check(self) -> None:
        """Check the encoder, and that patches tile the images.

        Raises:
            ValueError: a value is out of range, or patches do not tile the images.
        """
        self.check_encoder()
        patch_grid(*self.sides, self.patch_size)


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


def sides_of(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Turn an image size in pixels, which is one side or both, into height and width."""
    if isinstance(image_size, int):
        return image_size, image_size
    height, width = image_size
    return height, width


def patch_grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """Count the rows and columns of patches, of `patch` pixels a side, in an image.

    Raises:
        ValueError: `height` or `width` is not a positive multiple of `patch`.
    """
    for side in (height, width):
        if side < patch or side % patch:
            below = side // patch * patch
            ways = f"{below} or {below + patch}" if below else f"{patch}"
            raise ValueError(
                f"image_size={side} must be a multiple of patch_size={patch}; try {ways}"
            )
    return height // patch, width // patch


def visible_count(n: int, ratio: float) -> int:
    """Count the visible patches of n: v = int(n (1 - ratio)), so 19 of 49 at ratio 0.6.

    The rounding is that of the official code.

    Raises:
        ValueError: the ratio is outside [0, 1), or leaves no visible patch.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio={ratio} must lie in [0, 1): the share of patches hidden")
    count = int(n * (1 - ratio))
    if count == 0:
        most = max(0.0, math.floor(1000 * (1 - 1 / n) - 1e-9) / 1000)
        raise ValueError(
            f"ratio={ratio} leaves none of {n} patches visible; lower it to at most"
            f" {most:.3f}, or take a larger image or a smaller stem_stride"
        )
    return count
