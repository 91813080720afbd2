"""Opening `.npy` files: arrays [h, w], [h, w, c] or [c, h, w] of any type."""

import io
import math

import numpy as np

from data.config import PixelConfig
from data.formats.opened import Opened

MOST_BANDS_FIRST = 32  # along a first axis; longer ones are taken for stacks of images


def open_npy(encoded: bytes, kind: str, in_chans: int | None, config: PixelConfig) -> Opened:
    """Open a numpy array.

    Raises:
        ValueError: It is neither [h, w], nor [h, w, c], nor [c, h, w] with few channels.
    """
    # np.load would allocate what the header says before it finds that there are fewer bytes
    stream = io.BytesIO(encoded)
    if np.lib.format.read_magic(stream) == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(
            f"an array of shape {shape} is no image: [h, w], [h, w, c] or [c, h, w] wanted,"
            " one image a file"
        )
    first = channels_first(shape, in_chans)
    flat = np.frombuffer(encoded, dtype, math.prod(shape), stream.tell())
    array = flat.reshape(shape, order="F" if fortran else "C")
    array = array.transpose(1, 2, 0) if first else array
    height, width = array.shape[:2]
    native = dtype.newbyteorder("=")  # the byte order of this machine, in a copy to write to
    bands = f"are arrays of {shape[0]} channels first, and are read as [c, h, w]"
    return Opened(
        height=height,
        width=width,
        decode=lambda *_: array.reshape(height, width, -1).astype(native),
        remarks=(bands,) if first else (),
    )


def channels_first(shape: tuple[int, ...], in_chans: int | None) -> bool:
    """Whether an array is [c, h, w], not [h, w] or [h, w, c].

    It is if its first axis is the shortest one, of 32 at most, unless `in_chans` decides: where it
    is the length of the last axis alone, channels come last.

    Raises:
        ValueError: The first axis is the shortest, and too long for channels: a stack of images.
    """
    if len(shape) == 2 or shape[0] >= min(shape[1:]):
        return False
    if in_chans is not None and in_chans in (shape[0], shape[2]):
        return in_chans == shape[0]
    if shape[0] > MOST_BANDS_FIRST:
        raise ValueError(
            f"an array of shape {shape} may be a stack of {shape[0]} images: save one image a file,"
            f" or say that it has {shape[0]} channels [c, h, w] or {shape[2]} [h, w, c]"
            f" (--in-chans, --model.in_chans)"
        )
    return True
