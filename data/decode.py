"""Bytes to pixels: JPEG, PNG, WebP, TIFF and `.npy`, in 8 bits or as float32.

An image is opened first, which reads its size, and decoded when the box that is wanted of it is
known: a JPEG of which a box is shrunk to half or less is decoded at 1/2, 1/4 or 1/8 of its scale,
in the transform that decoding does anyway. Of a JPEG that is to be resized, the transform is the
quicker one, whose squared error in a crop is a quarter to a half of what a quality of 90 costs.
"""

import io
import math
import struct
import tokenize
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from jaxtyping import Float32, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from data.config import IMAGE_SUFFIXES, Pixels

MAX_PIXELS = 89_478_485  # where PIL, too, takes an image for a decompression bomb
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MAX_VALUES = 4 * MAX_PIXELS  # of all bands: what RGBA of that size takes
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")  # PIL would hand others on, as EPS to Ghostscript
JPEG_COLOURS = {"Gray": 1, "YCbCr": 3, "RGB": 3}  # CMYK is left to PIL

Box = tuple[int, int, int, int]  # top, left, height, width in pixels


def image_suffix(members: Container[str]) -> str | None:
    """The suffix of a sample's image, the first of IMAGE_SUFFIXES that it has."""
    return next((suffix for suffix in IMAGE_SUFFIXES if suffix in members), None)


class OversizedImage(ValueError):
    """A decompression bomb, or an image to be cut into tiles first."""


@dataclass(frozen=True)
class Picture:
    """An image whose size is known and whose pixels are not decoded yet.

    `height` and `width` are in pixels; `decode(k, exact)` gives the pixels [h/k, w/k, c], rounded
    up, for the reductions k up to `reducible` (1: none).
    """

    height: int
    width: int
    reducible: int
    decode: Callable[[int, bool], np.ndarray]
    in_chans: int | None
    pixels: Pixels

    def read(
        self, box: Box, size: tuple[int, int] = (0, 0)
    ) -> UInt8[Tensor, "c h w"] | Float32[Tensor, "c h w"]:
        """Decode the box, reduced as far as leaves it at least `size`, to be resized to that.

        A reduced box starts and ends at multiples of the reduction. (0, 0) is for the exact pixels.

        Raises:
            ValueError: the pixels cannot be decoded, or not into what was asked for.
        """
        top, left, height, width = box
        k = 1
        while 0 < size[0] <= height // (2 * k) and 0 < size[1] <= width // (2 * k):
            k *= 2
        k = min(k, self.reducible)
        with _named_errors("the image"):
            decoded = self.decode(k, size == (0, 0))
        decoded = decoded[top // k :, left // k :][: height // k, : width // k]
        decoded = _depth(_channels(decoded, self.in_chans), self.pixels)
        return torch.from_numpy(decoded).permute(2, 0, 1)


def open_image(
    encoded: bytes, suffix: str, in_chans: int | None = None, pixels: Pixels = "uint8"
) -> Picture:
    """Read the size of an image of this suffix, to be decoded into `in_chans` channels.

    `in_chans` None keeps the channels of the file; otherwise 8-bit images turn into grey (1), RGB
    (3) or RGBA (4), grey ones of any depth into RGB, and others must have as many. With `pixels`
    "uint8" everything becomes 8 bits, of 16 the upper ones; with "float32" the full range of 8 or
    16 bits becomes 0 to 1 and floats stay as they are. `.npy` arrays are [h, w] or [h, w, c].

    Raises:
        ValueError: no image of this kind; OversizedImage: one of more than MAX_PIXELS.
        ModuleNotFoundError: a TIFF without the extra `tiff`.
    """
    if suffix not in IMAGE_SUFFIXES:
        raise ValueError(f"{suffix!r} is no image: expected one of {', '.join(IMAGE_SUFFIXES)}")
    with _named_errors(f"{len(encoded)} bytes"):
        if suffix == "npy":
            height, width, reducible, decode = _open_npy(encoded)
        elif suffix in ("tif", "tiff"):
            height, width, reducible, decode = _open_tiff(encoded, in_chans)
        else:
            _refuse_deep_colour(encoded, pixels)
            jpeg = _open_jpeg(encoded, in_chans) if suffix in ("jpg", "jpeg") else None
            height, width, reducible, decode = jpeg or _open_pil(encoded, in_chans)
    if height * width > MAX_PIXELS:
        raise OversizedImage(f"{height} x {width} pixels exceed the limit of {MAX_PIXELS}")
    return Picture(height, width, reducible, decode, in_chans, pixels)


def decode(
    encoded: bytes, suffix: str, in_chans: int | None = None, pixels: Pixels = "uint8"
) -> UInt8[Tensor, "c h w"] | Float32[Tensor, "c h w"]:
    """Decode a whole image; arguments and errors are those of `open_image` and `Picture.read`."""
    picture = open_image(encoded, suffix, in_chans, pixels)
    return picture.read((0, 0, picture.height, picture.width))


@contextmanager
def _named_errors(what: str) -> Iterator[None]:
    """What decoders raise becomes a ValueError that says what was no image."""
    try:
        yield
    except OversizedImage:
        raise
    except (
        # tifffile's and imagecodecs' own errors are ValueErrors and RuntimeErrors; the last line
        # is what damaged headers raise in it and in numpy
        *(OSError, ValueError, SyntaxError, EOFError, RuntimeError, LookupError, TypeError),
        *(ArithmeticError, struct.error, tokenize.TokenError),
    ) as error:
        raise ValueError(f"{what} cannot be decoded as an image ({error})") from error


_Opened = tuple[int, int, int, Callable[[int, bool], np.ndarray]]


def _open_jpeg(encoded: bytes, in_chans: int | None) -> _Opened | None:
    """None for what is left to PIL: CMYK, an alpha channel to add, damaged headers."""
    try:
        rows, columns, colours, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        return None
    height, width = int(rows), int(columns)
    chans = in_chans or JPEG_COLOURS.get(colours)
    if colours not in JPEG_COLOURS or chans not in (1, 3):
        return None

    def decode(k: int, exact: bool) -> np.ndarray:
        try:
            return simplejpeg.decode_jpeg(
                encoded,
                colorspace="GRAY" if chans == 1 else "RGB",
                min_height=-(-height // k),
                min_width=-(-width // k),
                min_factor=k,
                fastdct=not exact,
                fastupsample=not exact,
            )
        except ValueError:  # a warning, as of stray bytes, is an error to it but none to PIL
            *_, whole = _open_pil(encoded, chans)
            image = whole(1, exact)
            reduced = Image.fromarray(image.squeeze(2) if chans == 1 else image).reduce(k)
            return np.array(reduced).reshape(*reduced.size[::-1], chans)

    return height, width, 8, decode


def _open_pil(encoded: bytes, in_chans: int | None) -> _Opened:
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except UnidentifiedImageError as error:  # its text has an address in it, which varies
        raise ValueError("no known format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise OversizedImage(str(error)) from error
    width, height = image.size
    if image.mode.startswith("I"):  # 16-bit grey, which PIL's convert would clip at 255
        return height, width, 1, lambda *_: np.asarray(image).astype(np.uint16)[..., None]
    if in_chans is None:
        chans = 1 if image.mode in ("1", "L") else 4 if "A" in image.getbands() else 3
    elif in_chans in MODES:
        chans = in_chans
    else:
        raise ValueError(
            f"in_chans={in_chans}: PNG, JPEG and WebP images decode to 1, 3 or 4 channels"
        )

    def decode(*_: int) -> np.ndarray:
        converted = np.array(image.convert(MODES[chans]))
        return converted.reshape(height, width, chans)

    return height, width, 1, decode


def _open_tiff(encoded: bytes, in_chans: int | None) -> _Opened:
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "TIFF images need the extra: pip install 'fcmae[tiff]'"
        ) from error

    series = tifffile.TiffFile(io.BytesIO(encoded)).series[0]
    axes = series.axes  # of length-1 axes tifffile has none
    bands = axes.replace("Y", "").replace("X", "")
    if "Y" not in axes or "X" not in axes or len(bands) > 1:
        raise ValueError(f"TIFF axes {axes} of shape {series.shape}: rows, columns, bands wanted")
    height, width = (series.shape[axes.index(axis)] for axis in "YX")
    if math.prod(series.shape) > MAX_VALUES:
        raise OversizedImage(f"{series.shape} ({axes}) exceeds the limit of {MAX_VALUES} values")
    photometric = series.keyframe.photometric
    if photometric in (tifffile.PHOTOMETRIC.PALETTE, tifffile.PHOTOMETRIC.SEPARATED):
        return _open_pil(encoded, in_chans)  # tifffile gives indices or inks, not colours

    def decode(*_: int) -> np.ndarray:
        image = series.asarray()
        if photometric == tifffile.PHOTOMETRIC.MINISWHITE and image.dtype.kind in "bu":
            image = ~image
        if not bands:
            return image[..., None]
        return image.transpose([axes.index(axis) for axis in ("Y", "X", bands)])

    return height, width, 1, decode


def _open_npy(encoded: bytes) -> _Opened:
    # from the header, since np.load allocates what it says before it sees that the bytes are fewer
    stream = io.BytesIO(encoded)
    if np.lib.format.read_magic(stream) == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"an array of shape {shape} is no image: [h, w] or [h, w, c] wanted")
    flat = np.frombuffer(encoded, dtype, math.prod(shape), stream.tell())
    array = flat.reshape(shape, order="F" if fortran else "C")
    # a copy that can be written to, in the byte order of this machine
    native = dtype.newbyteorder("=")
    height, width = shape[:2]
    return height, width, 1, lambda *_: array.reshape(height, width, -1).astype(native)


def _refuse_deep_colour(encoded: bytes, pixels: Pixels) -> None:
    """PNGs of 16-bit colours come out of PIL in 8 bits: loud, since float32 is to lose nothing."""
    png = encoded.startswith(b"\x89PNG")
    depth, kind = encoded[24:25], encoded[25:26]  # of its header; kind 0 is grey
    if pixels == "float32" and png and depth == b"\x10" and kind != b"\x00":
        raise ValueError("16-bit colours of a PNG would lose 8 bits: store a TIFF or .npy")


def _channels(image: np.ndarray, in_chans: int | None) -> np.ndarray:
    """[h, w, c] with `in_chans` channels."""
    found = image.shape[2]
    if in_chans in (None, found):
        return image
    if image.dtype == np.uint8 and found in MODES and in_chans in MODES:
        picture = Image.fromarray(image.squeeze(2) if found == 1 else image)
        return np.array(picture.convert(MODES[in_chans])).reshape(*image.shape[:2], in_chans)
    if found == 1 and in_chans == 3:
        return image.repeat(3, axis=2)
    raise ValueError(f"the image has {found} channels of {image.dtype}, not in_chans={in_chans}")


def _depth(image: np.ndarray, pixels: Pixels) -> np.ndarray:
    """In the type that `pixels` names."""
    if image.dtype == np.bool_:
        image = image.astype(np.uint8) * np.uint8(255)
    if image.dtype in (np.uint8, np.uint16):
        if pixels == "float32":
            return image.astype(np.float32) / np.iinfo(image.dtype).max
        return image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)
    if image.dtype.kind != "f":
        raise ValueError(f"{image.dtype} pixels have no known range: store uint8, uint16 or floats")
    if pixels != "float32":
        raise ValueError(f"{image.dtype} pixels do not fit into 8 bits: take data.pixels float32")
    if not np.isfinite(image).all():
        raise ValueError("some pixels are not finite: fill them before sharding")
    return image.astype(np.float32)
