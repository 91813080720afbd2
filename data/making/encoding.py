"""Encoding images for shards: their bytes are copied, or shrunk and encoded again."""

import math
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from torch import Tensor

from data.config import MEASURED, Encoding, PixelConfig
from data.decode import open_image
from data.formats.alpha import ALPHA
from data.formats.sniffing import kind_of
from data.transforms import resize


@dataclass(frozen=True)
class Encoded:
    """An image as a shard stores it.

    Attributes:
        content: The bytes.
        suffix: The suffix of their format.
        stored: The pixels, [h, w, c], of the type and the values of the file.
        remarks: What was assumed of the file; see `data.formats.opened.Opened`.
    """

    content: bytes
    suffix: str
    stored: np.ndarray
    remarks: tuple[str, ...]


def encode(content: bytes, suffix: str, encoding: Encoding) -> Encoded:
    """Encode an image as a shard stores it.

    Args:
        content: The bytes of its file.
        suffix: That of the file, in small letters, without the dot.
        encoding: How it is stored.

    Raises:
        ValueError: The image cannot be decoded.
    """
    config = PixelConfig(pixels="float32", background=encoding.background)
    picture = open_image(content, suffix, encoding.in_chans, config)
    stored = picture.whole()
    if encoding.max_side is not None and max(stored.shape[:2]) > encoding.max_side:
        image = eight_bits(content, suffix)
        if image is not None:
            image = shrink(image, encoding.max_side)
            rows = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
            colours = "GRAY" if rows.shape[2] == 1 else "RGB"
            content = simplejpeg.encode_jpeg(rows, quality=encoding.quality, colorspace=colours)
            stored = open_image(content, "jpg", encoding.in_chans, config).whole()
    return Encoded(content, kind_of(content) or suffix, stored, picture.opened.remarks)


def shrink(image: Tensor, max_side: int) -> Tensor:
    """Resize an image, UInt8[c, h, w], so that its longer side has `max_side` pixels."""
    scale = max_side / max(image.shape[1:])
    height, width = (max(1, math.floor(side * scale + 0.5)) for side in image.shape[1:])
    return resize(image, (height, width))


def eight_bits(content: bytes, suffix: str) -> Tensor | None:
    """The pixels, UInt8[c, h, w], of an opaque 8-bit grey or RGB image; None for any other."""
    picture = open_image(content, suffix, None, MEASURED)
    if kind_of(content) in ("npy", "tif") or ALPHA in picture.opened.remarks:
        return None
    stored = picture.whole()
    plain = stored.dtype == np.uint8 and stored.shape[2] in (1, 3)
    return torch.from_numpy(stored).permute(2, 0, 1) if plain else None
