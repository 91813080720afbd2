"""What an encoder and a model are: names, sizes, patches, and what has to hold of them.

Everything that makes, reads or plans a network asks here. Nothing here imports torch, so that a
help text and a plan need none.

Letters: p patch side in pixels, n = (h/p)(w/p) patches, v visible patches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Implementation = Literal["gathered", "reference", "minkowski"]


@dataclass(frozen=True)
class Size:
    """Blocks and channels of the four stages."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]


# ConvNeXt V2, table 9 (appendix A.1); V1 takes the same depths and widths.
SIZES = {
    "atto": Size((2, 2, 6, 2), (40, 80, 160, 320)),
    "femto": Size((2, 2, 6, 2), (48, 96, 192, 384)),
    "pico": Size((2, 2, 6, 2), (64, 128, 256, 512)),
    "nano": Size((2, 2, 8, 2), (80, 160, 320, 640)),
    "tiny": Size((3, 3, 9, 3), (96, 192, 384, 768)),
    "base": Size((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": Size((3, 3, 27, 3), (192, 384, 768, 1536)),
    "huge": Size((3, 3, 27, 3), (352, 704, 1408, 2816)),
}
MODELS = [f"{family}_{size}" for family in ("convnextv2", "convnext") for size in SIZES]
STEM_STRIDES = (4, 2, 1)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """An encoder, and the images that it is made for.

    Any values can be held; `check` says whether there is such an encoder.
    """

    name: str = "convnextv2_atto"
    """convnextv2_ or convnext_ (V1), and atto femto pico nano tiny base large or huge."""
    image_size: int | tuple[int, int] = 224
    """Side, or height and width, in pixels; multiples of the patch side 8 x stem_stride."""
    in_chans: int = 3
    """Channels of the images."""
    stem_stride: int = 4
    """4, 2 or 1: patches of 32, 16 or 8 pixels; small ones for small images."""

    def __str__(self) -> str:
        return f"{self.name} with stem_stride={self.stem_stride} and in_chans={self.in_chans}"

    @property
    def family(self) -> str:
        """`convnextv2`, which has GRN, or `convnext`, which has LayerScale."""
        return self.name.split("_")[0]

    @property
    def has_grn(self) -> bool:
        """Whether the blocks have global response normalisation: those of V2 do."""
        return self.family == "convnextv2"

    @property
    def size(self) -> Size:
        """Blocks and channels of the four stages."""
        return SIZES[self.name.split("_")[1]]

    @property
    def depths(self) -> tuple[int, int, int, int]:
        """Blocks of the four stages."""
        return self.size.depths

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Channels of the four stages."""
        return self.size.widths

    @property
    def dim(self) -> int:
        """Width of the features, those of the last stage."""
        return self.widths[-1]

    @property
    def patch_size(self) -> int:
        """Side p of a patch in pixels: the stem's stride, and three downsamplings by 2."""
        return 8 * self.stem_stride

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return sides_of(self.image_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of an image.

        Raises:
            ValueError: see `patch_grid`.
        """
        return patch_grid(*self.sides, self.patch_size)

    @property
    def patches(self) -> int:
        """Number n of patches of an image.

        Raises:
            ValueError: see `patch_grid`.
        """
        rows, columns = self.grid
        return rows * columns

    def same_tensors(self, other: "Architecture") -> bool:
        """Whether the weights of one encoder fit the other: all is equal but the image size."""
        mine = (self.name, self.in_chans, self.stem_stride)
        return mine == (other.name, other.in_chans, other.stem_stride)

    def check_encoder(self) -> None:
        """Check what decides an encoder's tensors, which is all but the image size.

        Raises:
            ValueError: a value out of range; the message names it, the rule and a way out.
        """
        if self.name not in MODELS:
            raise ValueError(f"model name={self.name!r} is none of {', '.join(MODELS)}")
        if self.stem_stride not in STEM_STRIDES:
            raise ValueError(
                f"stem_stride={self.stem_stride} must be 4, 2 or 1 (patches of 32, 16, 8)"
            )
        if self.in_chans < 1:
            raise ValueError(f"in_chans={self.in_chans} must be at least 1")

    def check(self) -> None:
        """Check the encoder, and that patches tile the images.

        Raises:
            ValueError: see `check_encoder` and `patch_grid`.
        """
        self.check_encoder()
        patch_grid(*self.sides, self.patch_size)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Architecture):
    """The arguments of `FCMAE`: the encoder, how much is hidden from it, and the decoder."""

    ratio: float = 0.6
    """Share of the patches hidden from the encoder."""
    sparse: Implementation = "gathered"
    """Implementation of the sparse operations: the fast one, the slow oracle, MinkowskiEngine."""
    decoder_dim: int = 512
    """Width of the decoder."""
    decoder_depth: int = 1
    """Blocks of the decoder."""

    @property
    def visible_patches(self) -> int:
        """Number v of patches that the encoder sees of an image.

        Raises:
            ValueError: see `patch_grid` and `visible_count`.
        """
        return visible_count(self.patches, self.ratio)

    def check(self) -> None:
        """Check the encoder, that some patches are visible and some hidden, and the decoder.

        Raises:
            ValueError: see `Architecture.check` and `visible_count`; or another value out of range.
        """
        super().check()
        if self.visible_patches == self.patches:
            raise ValueError(
                f"ratio={self.ratio} hides none of {self.patches} patches, so there is nothing to"
                " predict; raise it above 0; 0.6 is usual"
            )
        if self.decoder_dim < 1:
            raise ValueError(f"decoder_dim={self.decoder_dim} must be at least 1")
        if self.decoder_depth < 0:
            raise ValueError(f"decoder_depth={self.decoder_depth} must be at least 0")


def sides_of(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width in pixels of an image size, which is one side or both."""
    if isinstance(image_size, int):
        return image_size, image_size
    height, width = image_size
    return height, width


def patch_grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """Rows and columns of patches in an image of `height` x `width` pixels.

    Raises:
        ValueError: a side is no positive multiple of the patch side.
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
    """v = int(n (1 - ratio)), the official rounding: 19 of 49 at ratio 0.6.

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
