"""The vision transformers that MAE pretrains: their names and sizes.

He et al. 2022, arXiv 2111.06377, appendix A.1 (base, large); Touvron et al. 2021, arXiv 2012.12877,
table 1 (tiny, small).
"""

from dataclasses import dataclass

PREFIX = "mae_vit_"
STRIDES = 4  # a patch has 4 x stem_stride pixels a side: 16 in the paper, 8 and 4 for small images
HEAD = 32  # channels of a head of MAE's decoder: 16 heads of 512
DECODER_DEPTH = 8


@dataclass(frozen=True, kw_only=True)
class Vit:
    """Sizes of a vision transformer, whose MLPs have four times its width."""

    dim: int
    """Number of channels of a token."""
    depth: int
    """Number of blocks."""
    heads: int
    """Number of heads of the attention."""
    timm: str
    """timm's name of the same network."""


SIZES = {
    "tiny": Vit(dim=192, depth=12, heads=3, timm="vit_tiny_patch16_224"),
    "small": Vit(dim=384, depth=12, heads=6, timm="vit_small_patch16_224"),
    "base": Vit(dim=768, depth=12, heads=12, timm="vit_base_patch16_224"),
    "large": Vit(dim=1024, depth=24, heads=16, timm="vit_large_patch16_224"),
}
NAMES = [f"{PREFIX}{size}" for size in SIZES]


def vit(name: str) -> Vit:
    """Look up the vision transformer `mae_vit_SIZE`.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in NAMES:
        raise ValueError(f"model name={name!r} is none of {', '.join(NAMES)}")
    return SIZES[name.removeprefix(PREFIX)]
