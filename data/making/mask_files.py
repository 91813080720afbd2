"""Reading masks of any format, and encoding them as a shard stores them: the member `seg.png`."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from data.config import IGNORED
from data.decode import open_image
from data.formats.damaged import named_errors
from data.formats.npy import array_of
from data.formats.opened import check_volume
from data.formats.pil import opened_by_pil
from data.formats.sniffing import kind_of
from data.formats.tiff import check_segments, opened_by_tifffile
from data.making.entries import Entry
from data.pixel_labels import MASK, read_mask, resize_mask


def encode_mask(entry: Entry, stored: bytes, values: Sequence[int]) -> tuple[bytes, dict[int, int]]:
    """Read the mask of an image, and encode it as a PNG in 8-bit grey of the stored image's size.

    Args:
        entry: The image, with a mask.
        stored: The image as it is stored, which may have been shrunk.
        values: See `to_classes`.

    Returns:
        The PNG, and the number of pixels of each class.

    Raises:
        OSError: A file cannot be read.
        ValueError: The mask cannot be read, is not as large as its image, or has other values.
    """
    assert entry.mask is not None
    try:
        mask = to_classes(read_values(entry.mask.read_bytes()), values)
        size = size_of(stored)
        if mask.shape != size:
            whole = size_of(entry.path.read_bytes())
            if mask.shape != whole:
                raise ValueError(
                    f"it has {mask.shape[0]} x {mask.shape[1]} pixels, its image {entry.path}"
                    f" {whole[0]} x {whole[1]}: they must be of one size"
                )
            mask = resize_mask(torch.from_numpy(mask), size).numpy()
    except ValueError as error:
        raise ValueError(f"mask {entry.mask}: {error}") from error
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    numbers, counts = np.unique(mask, return_counts=True)
    return file.getvalue(), dict(zip(numbers.tolist(), counts.tolist(), strict=True))


def size_of(encoded: bytes) -> tuple[int, int]:
    """The height and width in pixels of an image that stands upright."""
    picture = open_image(encoded, "")
    return picture.height, picture.width


def read_values(encoded: bytes) -> np.ndarray:
    """The values of a mask, [h, w]: grey values, or the indices of a palette.

    Raises:
        ValueError: It is of a format that loses values, is damaged, or has colours or fractions.
        ModuleNotFoundError: A TIFF needs the extra `tiff`, which is not installed.
    """
    kind = kind_of(encoded)
    if kind == "png":
        return read_mask({MASK: encoded}).numpy()
    with named_errors("it"):
        if kind in ("bmp", "gif"):
            image = opened_by_pil(encoded, kind)
            check_volume((image.height, image.width, len(image.getbands())), np.dtype(np.uint8))
            values = np.array(image)
        elif kind == "tif":
            values = read_tiff(encoded)
        elif kind == "npy":
            values = array_of(encoded)
        else:
            raise ValueError(f"a mask in {kind or 'an unknown format'} is not read: store a PNG")
    if (
        values.ndim == 3
        and values.shape[2] in (3, 4)
        and (values[..., :3] == values[..., :1]).all()
    ):
        values = values[..., 0]
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values.squeeze(0 if values.shape[0] == 1 else 2)
    if values.ndim != 2 or values.dtype.kind not in "bui":
        raise ValueError(
            f"{values.dtype} values of shape {values.shape} are no class numbers: store those, in"
            " grey or with a palette"
        )
    return values.astype(np.uint8) if values.dtype == np.bool_ else values


def read_tiff(encoded: bytes) -> np.ndarray:
    """The values of the first image of a TIFF.

    Raises:
        ValueError: See `data.formats.tiff.check_segments`.
        ModuleNotFoundError: The extra `tiff` is not installed.
    """
    series = opened_by_tifffile(encoded).series[0]
    check_segments(encoded, series)
    return series.asarray()


def to_classes(mask: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Turn the values of a mask into numbers of classes, uint8.

    Args:
        mask: The values, [h, w].
        values: Those that become the classes 0, 1, ...; none if values are classes. 255 is ignored
            unless it is one of them.

    Raises:
        ValueError: The mask has another value.
    """
    classes = np.full(mask.shape, IGNORED, np.uint8)
    known = mask == IGNORED
    for number, value in enumerate(values):
        classes[mask == value] = number
        known |= mask == value
    if not values:
        known |= (mask >= 0) & (mask < IGNORED)
        classes[known] = mask[known]
    if not known.all():
        wanted = f"one of {', '.join(map(str, values))}" if values else f"0 to {IGNORED - 1}"
        raise ValueError(
            f"it has the value {mask[~known].max()}, no class ({wanted}) and not {IGNORED}:"
            " name all values that stand for classes with --mask-values"
        )
    return classes
