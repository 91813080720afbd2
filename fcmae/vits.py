"""The vision transformers that MAE pretrains: their names and sizes.

He et al. 2022, arXiv 2111.06377, appendix A.1 (base, large); Touvron et al. 2021, arXiv 2012.12877,
table 1 (tiny, small).
"""

import re
from dataclasses import dataclass, replace

PREFIX = "mae_vit_"
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
    patch_size: int = 16
    """Side of a patch in pixels."""


SIZES = {
    "tiny": Vit(dim=192, depth=12, heads=3),
    "small": Vit(dim=384, depth=12, heads=6),
    "base": Vit(dim=768, depth=12, heads=12),
    "large": Vit(dim=1024, depth=24, heads=16),
}
NAMES = [f"{PREFIX}{size}" for size in SIZES]
NAME = re.compile(rf"{PREFIX}({'|'.join(SIZES)})(?:_patch([1-9]\d{{0,2}}))?")


def vit(name: str) -> Vit:
    """Look up a vision transformer.

    Args:
        name: `mae_vit_SIZE`, with patches of 16 pixels, or `mae_vit_SIZE_patchP` with P.

    Raises:
        ValueError: there is none of this name.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"model name={name!r} is none of {', '.join(NAMES)}, nor one of these with _patchP"
            f" behind it, as {NAMES[0]}_patch8 for patches of 8 pixels"
        )
    size, patch = match.groups()
    return SIZES[size] if patch is None else replace(SIZES[size], patch_size=int(patch))
