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
        ValueError: It is neither [h, w], nor [h, w, c], nor [c, h, w] with few channels; or it does
            not hold numbers.
    """
    array = array_of(encoded)
    shape = array.shape
    if len(shape) not in (2, 3):
        raise ValueError(
            f"an array of shape {shape} is no image: [h, w], [h, w, c] or [c, h, w] wanted,"
            " one image a file"
        )
    first = channels_first(shape, in_chans)
    array = array.transpose(1, 2, 0) if first else array
    height, width = array.shape[:2]
    native = array.dtype.newbyteorder("=")  # the byte order of this machine, in a copy to write to
    bands = f"are arrays of {shape[0]} channels first, and are read as [c, h, w]"
    return Opened(
        height=height,
        width=width,
        decode=lambda *_: array.reshape(height, width, -1).astype(native),
        remarks=(bands,) if first else (),
    )


def array_of(encoded: bytes) -> np.ndarray:
    """The array of a `.npy`, in the order and the byte order in which it is stored.

    Raises:
        ValueError: It does not hold numbers, or none, or fewer bytes than its header says.
    """
    # np.load would make room for what the header says before it finds that there are fewer bytes
    stream = io.BytesIO(encoded)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version} of the format is not known")
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    if dtype.hasobject or dtype.names or dtype.subdtype:
        raise ValueError(f"values of {dtype} are no pixels: store numbers")
    if any(length < 1 for length in shape):
        raise ValueError(f"an array of shape {shape} holds no number")
    size = math.prod(shape) * dtype.itemsize
    if size > len(encoded) - stream.tell():
        raise ValueError(
            f"{len(encoded) - stream.tell()} of the {size} bytes of its array are there"
        )
    flat = np.frombuffer(encoded, dtype, math.prod(shape), stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


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
