"""The sizes of ConvMAE's encoders: two stages of convolutions, one of attention.

Gao et al. 2022, arXiv 2205.03892, section 3.1; the widths, depths and MLPs of its table of sizes.
"""

from dataclasses import dataclass

PREFIX = "convmae_"
STRIDES = 4  # of the second and the third patch embedding together


@dataclass(frozen=True, kw_only=True)
class ConvMAESize:
    """Sizes of an encoder of three stages, the last of which is a transformer."""

    widths: tuple[int, int, int]
    """Numbers of channels."""
    depths: tuple[int, int, int]
    """Numbers of blocks."""
    heads: int
    """Number of heads of the attention."""
    expansion: int = 4
    """How many times wider the MLPs of the first two stages are inside; those of the third, 4."""


SIZES = {
    "small": ConvMAESize(widths=(128, 256, 384), depths=(2, 2, 11), heads=6),
    "base": ConvMAESize(widths=(256, 384, 768), depths=(2, 2, 11), heads=12),
    "large": ConvMAESize(widths=(384, 768, 1024), depths=(2, 2, 23), heads=16, expansion=8),
}
NAMES = [f"{PREFIX}{size}" for size in SIZES]


def convmae(name: str) -> ConvMAESize:
    """Look up the sizes of `convmae_SIZE`.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in NAMES:
        raise ValueError(f"model name={name!r} is none of {', '.join(NAMES)}")
    return SIZES[name.removeprefix(PREFIX)]
