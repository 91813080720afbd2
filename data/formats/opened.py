"""What an opener of a format gives: an image whose size is known, and how it is decoded."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

MAX_PIXELS = 89_478_485  # the limit of PIL, too: more is taken for a decompression bomb
MAX_VALUES = 4 * MAX_PIXELS  # in all bands together, as in RGBA of that size
MAX_BYTES = 2 * MAX_VALUES  # once they are decoded, as in RGBA of that size in 16 bits


class OversizedImage(ValueError):
    """An image with too many pixels: a decompression bomb, or one to be cut into tiles first."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An image as its file stores it.

    Attributes:
        height: The number of rows that are stored.
        width: The number of columns that are stored.
        decode: `decode(k, exact)` gives the pixels [h/k, w/k, c], rounded up, for a reduction k.
        reducible: The largest reduction that `decode` can do; 1 for none.
        turn: How the image is turned upright: an orientation of EXIF, from 1 to 8.
        remarks: What was assumed of the image, as ends of a sentence that begins with "images".
    """

    height: int
    width: int
    decode: Callable[[int, bool], np.ndarray]
    reducible: int = 1
    turn: int = 1
    remarks: tuple[str, ...] = ()


def check_volume(shape: Sequence[int], dtype: np.dtype) -> None:
    """Check that an array is no larger than images may be, before room is made for it.

    Raises:
        OversizedImage: It has more than MAX_VALUES values, or more than MAX_BYTES bytes.
    """
    values = math.prod(shape)
    text = " x ".join(map(str, shape))
    if values > MAX_VALUES:
        raise OversizedImage(f"an array of {text} exceeds the limit of {MAX_VALUES} values")
    if values * dtype.itemsize > MAX_BYTES:
        raise OversizedImage(f"{text} values of {dtype} exceed the limit of {MAX_BYTES} bytes")
