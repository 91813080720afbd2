"""The patches of an image: how many tile it, and how many of them an encoder sees."""

import math
from collections.abc import Sequence


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
