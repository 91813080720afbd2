"""Decoding images: JPEG, PNG, WebP, TIFF and `.npy` to pixels in 8 bits or as float32.

An image is opened first, which reads its size, and decoded once it is known which box is needed. A
box of a JPEG that will shrink to half or less is decoded at 1/2, 1/4 or 1/8 of its scale, which its
transform does on the way. A JPEG that will be resized is decoded with the faster transform, whose
squared error in a crop is a quarter to a half of that of JPEG itself at a quality of 90.
"""

import io
import math
import struct
import tokenize
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from jaxtyping import Float32, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from data.config import EIGHT_BITS, IMAGE_SUFFIXES, PixelConfig, Pixels
from data.formats.sniffing import kind_of
from data.shards.members import image_suffix

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MAX_PIXELS = 89_478_485  # the limit of PIL, too: more is taken for a decompression bomb
MAX_VALUES = 4 * MAX_PIXELS  # in all bands together, as in RGBA of that size
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")  # not EPS, which PIL hands to Ghostscript
JPEG_COLOURS = {"Gray": 1, "YCbCr": 3, "RGB": 3}  # CMYK is left to PIL

Box = tuple[int, int, int, int]  # top, left, height, width in pixels


def encoded_image(members: Mapping[str, str | bytes], image: str = "") -> tuple[bytes, str]:
    """The encoded image of a sample and its suffix.

    Args:
        members: The members of the sample by suffix.
        image: The suffix that the image has, such as "input.jpg", in which case its content tells
            the format; "" for the first of IMAGE_SUFFIXES that is there.

    Raises:
        ValueError: The sample has no image.
    """
    suffix = image_suffix(members, image)
    if suffix is None:
        wanted = f"a member {image!r}" if image else f"one of {', '.join(IMAGE_SUFFIXES)}"
        raise ValueError(f"no image: expected {wanted}")
    encoded = members[suffix]
    assert isinstance(encoded, bytes)  # only __key__ is a str
    if image:
        suffix = kind_of(encoded) or suffix.rpartition(".")[2]
    return encoded, suffix


class OversizedImage(ValueError):
    """An image with too many pixels: a decompression bomb, or one to be cut into tiles first."""


@dataclass(frozen=True)
class Picture:
    """An image whose size is known and whose pixels are not decoded yet.

    Attributes:
        height: The height in pixels.
        width: The width in pixels.
        reducible: The largest reduction that `decode` can do; 1 for none.
        decode: `decode(k, exact)` gives the pixels [h/k, w/k, c], rounded up, for a reduction k.
        in_chans, config: See `open_image`.
    """

    height: int
    width: int
    reducible: int
    decode: Callable[[int, bool], np.ndarray]
    in_chans: int | None
    config: PixelConfig

    def read(
        self, box: Box, size: tuple[int, int] = (0, 0)
    ) -> UInt8[Tensor, "c h w"] | Float32[Tensor, "c h w"]:
        """Decode a box of the image, which the caller then resizes to `size`.

        The box is reduced while it stays as large as `size`, to multiples of the reduction.

        Args:
            box: Top, left, height and width in pixels.
            size: Height and width in pixels; (0, 0) for the exact pixels, without a reduction.

        Raises:
            ValueError: The pixels cannot be decoded, or not to these channels and this type.
        """
        top, left, height, width = box
        k = 1
        while 0 < size[0] <= height // (2 * k) and 0 < size[1] <= width // (2 * k):
            k *= 2
        k = min(k, self.reducible)
        with named_errors("the image"):
            decoded = self.decode(k, size == (0, 0))
        decoded = decoded[top // k :, left // k :][: height // k, : width // k]
        decoded = to_type(to_channels(decoded, self.in_chans), self.config.pixels)
        return torch.from_numpy(decoded).permute(2, 0, 1)


def open_image(
    encoded: bytes, suffix: str, in_chans: int | None = None, config: PixelConfig = EIGHT_BITS
) -> Picture:
    """Open an image, which reads its size but does not decode it yet.

    Args:
        encoded: The bytes of the image. A `.npy` array is [h, w] or [h, w, c].
        suffix: One of IMAGE_SUFFIXES.
        in_chans: The number of channels; None for that of the file. 8-bit images become grey (1),
            RGB (3) or RGBA (4), grey ones of any depth RGB; others must have as many channels.
        config: The type "uint8" gives 8 bits, which of 16 bits are the upper ones. "float32" scales
            the range of 8 or 16 bits to 0 to 1, and leaves floats as they are.

    Raises:
        ValueError: The bytes are no image of this kind.
        OversizedImage: The image has more than MAX_PIXELS pixels.
        ModuleNotFoundError: A TIFF needs the extra `tiff`, which is not installed.
    """
    if suffix not in IMAGE_SUFFIXES:
        raise ValueError(f"{suffix!r} is no image: expected one of {', '.join(IMAGE_SUFFIXES)}")
    with named_errors(f"{len(encoded)} bytes"):
        if suffix == "npy":
            opened = open_npy(encoded)
        elif suffix in ("tif", "tiff"):
            opened = open_tiff(encoded, in_chans)
        else:
            refuse_deep_colour(encoded, config.pixels)
            jpeg = open_jpeg(encoded, in_chans) if suffix in ("jpg", "jpeg") else None
            opened = jpeg or open_pil(encoded, in_chans)
    height, width, *_ = opened
    if height * width > MAX_PIXELS:
        raise OversizedImage(f"{height} x {width} pixels exceed the limit of {MAX_PIXELS}")
    return Picture(*opened, in_chans, config)


def decode(
    encoded: bytes, suffix: str, in_chans: int | None = None, config: PixelConfig = EIGHT_BITS
) -> UInt8[Tensor, "c h w"] | Float32[Tensor, "c h w"]:
    """Decode a whole image to exact pixels. The arguments are those of `open_image`.

    Raises:
        ValueError, ModuleNotFoundError: See `open_image` and `Picture.read`.
    """
    picture = open_image(encoded, suffix, in_chans, config)
    return picture.read((0, 0, picture.height, picture.width))


@contextmanager
def named_errors(what: str) -> Iterator[None]:
    """Turn the errors of any decoder into a ValueError that says what could not be decoded."""
    try:
        yield
    except OversizedImage:
        raise
    except (
        # also subclasses, by tifffile and imagecodecs; the last line is for damaged headers
        *(OSError, ValueError, SyntaxError, EOFError, RuntimeError, LookupError, TypeError),
        *(ArithmeticError, struct.error, tokenize.TokenError),
    ) as error:
        raise ValueError(f"{what} cannot be decoded as an image ({error})") from error


Opened = tuple[int, int, int, Callable[[int, bool], np.ndarray]]  # the first fields of a Picture


def open_jpeg(encoded: bytes, in_chans: int | None) -> Opened | None:
    """Open a JPEG; None if PIL has to do it: for CMYK, an alpha channel, or a damaged header."""
    try:
        rows, columns, colours, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        return None
    height = int(rows)
    width = int(columns)
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
        except ValueError:  # it fails on warnings, such as one of stray bytes, but PIL does not
            *_, whole = open_pil(encoded, chans)
            image = whole(1, exact)
            reduced = Image.fromarray(image.squeeze(2) if chans == 1 else image).reduce(k)
            return np.array(reduced).reshape(*reduced.size[::-1], chans)

    return height, width, 8, decode


def open_pil(encoded: bytes, in_chans: int | None) -> Opened:
    """Open an image with PIL."""
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except UnidentifiedImageError as error:  # its text contains an address that varies
        raise ValueError("no known format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise OversizedImage(str(error)) from error
    width, height = image.size
    if image.mode.startswith("I"):  # 16-bit grey, which PIL's convert would clip at 255
        return height, width, 1, lambda *_: np.asarray(image).astype(np.uint16)[..., None]
    own_chans = 1 if image.mode in ("1", "L") else 4 if "A" in image.getbands() else 3
    chans = own_chans if in_chans is None else in_chans
    if chans not in MODES:
        raise ValueError(f"{in_chans=}: PNG, JPEG and WebP images decode to 1, 3 or 4 channels")
    mode = MODES[chans]
    return height, width, 1, lambda *_: np.array(image.convert(mode)).reshape(height, width, chans)


def open_tiff(encoded: bytes, in_chans: int | None) -> Opened:
    """Open a TIFF of any number of bands and any depth."""
    try:
        import tifffile
    except ModuleNotFoundError as error:
        message = "TIFF images need the extra: pip install 'fcmae[tiff]'"
        raise ModuleNotFoundError(message) from error
    series = tifffile.TiffFile(io.BytesIO(encoded)).series[0]
    axes = series.axes  # without axes of length 1
    bands = axes.replace("Y", "").replace("X", "")
    if "Y" not in axes or "X" not in axes or len(bands) > 1:
        raise ValueError(f"TIFF axes {axes} of shape {series.shape}: rows, columns, bands wanted")
    height, width = (series.shape[axes.index(axis)] for axis in "YX")
    if math.prod(series.shape) > MAX_VALUES:
        raise OversizedImage(f"{series.shape} ({axes}) exceeds the limit of {MAX_VALUES} values")
    photometric = series.keyframe.photometric
    if photometric in (tifffile.PHOTOMETRIC.PALETTE, tifffile.PHOTOMETRIC.SEPARATED):
        return open_pil(encoded, in_chans)  # tifffile gives indices or inks, not colours

    def decode(*_: int) -> np.ndarray:
        image = series.asarray()
        if photometric == tifffile.PHOTOMETRIC.MINISWHITE and image.dtype.kind in "bu":
            image = ~image
        image = image.transpose([axes.index(axis) for axis in "YX" + bands])
        return image if bands else image[..., None]

    return height, width, 1, decode


def open_npy(encoded: bytes) -> Opened:
    """Open a numpy array."""
    # np.load would allocate what the header says before it finds that there are fewer bytes
    stream = io.BytesIO(encoded)
    if np.lib.format.read_magic(stream) == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"an array of shape {shape} is no image: [h, w] or [h, w, c] wanted")
    flat = np.frombuffer(encoded, dtype, math.prod(shape), stream.tell())
    array = flat.reshape(shape, order="F" if fortran else "C")
    height, width = shape[:2]
    native = dtype.newbyteorder("=")  # the byte order of this machine, in a copy to write to
    return height, width, 1, lambda *_: array.reshape(height, width, -1).astype(native)


def refuse_deep_colour(encoded: bytes, pixels: Pixels) -> None:
    """Refuse a PNG in 16-bit colour, which PIL gives in 8 bits: "float32" must lose nothing."""
    png = encoded.startswith(b"\x89PNG")
    deep_colour = encoded[24:25] == b"\x10" and encoded[25:26] != b"\x00"  # 16 bits, not grey
    if pixels == "float32" and png and deep_colour:
        raise ValueError("16-bit colours of a PNG would lose 8 bits: store a TIFF or .npy")


def to_channels(image: np.ndarray, in_chans: int | None) -> np.ndarray:
    """Convert an image, [h, w, c], to `in_chans` channels; None for those that it has."""
    chans = image.shape[2]
    if in_chans in (None, chans):
        return image
    if image.dtype == np.uint8 and chans in MODES and in_chans in MODES:
        picture = Image.fromarray(image.squeeze(2) if chans == 1 else image)
        return np.array(picture.convert(MODES[in_chans])).reshape(*image.shape[:2], in_chans)
    if chans == 1 and in_chans == 3:
        return image.repeat(3, axis=2)
    raise ValueError(f"the image has {chans} channels of {image.dtype}, not in_chans={in_chans}")


def to_type(image: np.ndarray, pixels: Pixels) -> np.ndarray:
    """Convert an image to the type that `pixels` names, on the scale that `open_image` says."""
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
