"""Pictures that stand in the page itself, as data URIs."""

import base64
import io

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup
from PIL import Image

SMALL = 64  # pixels of a side; such a picture is enlarged so that each of its pixels is seen
GREY = 128
QUALITY = 80  # by WebP's scale


def data_uri(pixels: UInt8[np.ndarray, "3 h w"], most: int, *, exact: bool = False) -> Markup:
    """Encode a picture as WebP, as it stands in the `src` of an image.

    Args:
        pixels: red, green and blue.
        most: the longer side that it may have; a larger picture is reduced.
        exact: whether every pixel stays as it is, which takes several times the bytes.
    """
    picture = Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))
    picture.thumbnail((most, most), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=QUALITY, lossless=exact, method=4)
    return Markup(f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}")


def mosaic(
    tiles: UInt8[np.ndarray, "n 3 h w"], columns: int, gap: int
) -> UInt8[np.ndarray, "3 y x"]:
    """Put pictures of one size side by side, row by row, with grey gaps between them.

    Args:
        tiles: the pictures.
        columns: how many stand in a row.
        gap: between two of them, in pixels.
    """
    n, _, h, w = tiles.shape
    rows = -(-n // columns)
    whole = np.full((3, rows * (h + gap) - gap, columns * (w + gap) - gap), GREY, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        whole[:, y : y + h, x : x + w] = tile
    return whole


def is_small(pictures: UInt8[np.ndarray, "n 3 h w"]) -> bool:
    """Whether pictures are so small that each pixel is to be seen as it is."""
    return max(pictures.shape[2:]) <= SMALL
