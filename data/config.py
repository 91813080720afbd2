"""What users choose of data, and a help text shows: this file imports neither torch nor ours."""

from dataclasses import dataclass
from typing import Literal

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "npy")
Pixels = Literal["uint8", "float32"]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How images are stored in shards."""

    max_side: int | None = None
    """Shrink larger images to this many pixels on the longer side. 8-bit grey and RGB images are
    encoded again, as JPEG; of others, which are copied, there is no lossy copy worth having."""
    quality: int = 92
    """Of the JPEGs that are encoded again, 1 to 100."""
    in_chans: int | None = None
    """Channels in which images are checked and their statistics taken; by default the first's."""
    compress: bool = False
    """Write .tar.gz: for images of 2 kB or so, whose size the tar headers would double."""
