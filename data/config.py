"""Settings for data that help texts show. This file imports neither torch nor our own modules."""

from dataclasses import dataclass
from typing import Literal

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "npy")
Pixels = Literal["uint8", "float32"]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How images are stored in shards."""

    max_side: int | None = None
    """Shrink 8-bit grey and RGB images to at most this many pixels on the longer side, and encode
    those that shrink as JPEG. Other images are copied as they are."""
    quality: int = 92
    """Quality of the JPEGs that are encoded again, from 1 to 100."""
    in_chans: int | None = None
    """Number of channels to check images and to compute statistics in. By default, as many as the
    first image has."""
    compress: bool = False
    """Write .tar.gz. This helps with images of about 2 kB, whose size tar headers would double."""
