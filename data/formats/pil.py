"""Opening images with PIL: all formats but those that have an opener of their own."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from data.config import PixelConfig
from data.formats.alpha import ALPHA, on_background
from data.formats.jpeg2000 import check_codestream
from data.formats.opened import MAX_PIXELS, MAX_VALUES, Opened, OversizedImage
from data.formats.orientation import TURNED, turn_of
from fcmae.run.extras import extra

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
FORMATS = {
    "jpg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "tif": "TIFF",
    "gif": "GIF",
    "bmp": "BMP",
    "ppm": "PPM",
    "jp2": "JPEG2000",
    "avif": "AVIF",
    "heic": "HEIF",
}
CODECS = {"webp": "webp", "jp2": "jpg_2000", "avif": "avif"}  # that PIL may be built without
GREY = ("1", "L", "LA", "La")
RUN_LENGTHS = (b"\1\0\0\0", b"\2\0\0\0")  # the compression of a BMP that has them
FRAMES = "hold several frames, of which the first is taken"


def open_pil(encoded: bytes, kind: str, in_chans: int | None, config: PixelConfig) -> Opened:
    """Open an image with PIL. Transparent ones are shown on the background, unless `in_chans` is 4.

    Raises:
        ValueError: The image cannot be read, or not to these channels.
        ModuleNotFoundError: The format needs an extra, or another build of PIL.
    """
    image = opened_by_pil(encoded, kind)
    width, height = image.size
    exif = image.info.get("exif") or (image.getexif().tobytes() if b"eXIf" in encoded else b"")
    turn = turn_of(exif) if exif and kind != "tif" else 1  # PIL turns a TIFF by itself
    remarks = () if turn == 1 else (TURNED,)
    if kind in ("gif", "png", "webp", "avif") and getattr(image, "is_animated", False):
        remarks += (FRAMES,)
    alpha = image.has_transparency_data and in_chans != 4
    if alpha:
        remarks += (ALPHA,)
    own_chans = 1 if image.mode in GREY else 3
    chans = own_chans if in_chans is None else in_chans
    if chans not in MODES:
        raise ValueError(f"{in_chans=}: images of this format decode to 1, 3 or 4 channels")

    def decode(*_: int) -> np.ndarray:
        if image.mode.startswith("I"):  # 16-bit grey, which PIL's convert would clip at 255
            return np.asarray(image).astype(np.uint16)[..., None]
        if alpha:
            return on_background(
                np.array(image.convert("LA" if own_chans == 1 else "RGBA")), config
            )
        as_is = image.mode == MODES[chans]  # which `convert` would copy
        pixels = np.array(image if as_is else image.convert(MODES[chans]))
        return pixels.reshape(height, width, chans)

    return Opened(height=height, width=width, decode=decode, turn=turn, remarks=remarks)


def opened_by_pil(encoded: bytes, kind: str) -> Image.Image:
    """An image that PIL has read the header of.

    Raises:
        OversizedImage: It has too many pixels.
        ValueError: It is not of this kind, or its header asks for more than its pixels need.
        ModuleNotFoundError: The format needs an extra, or another build of PIL.
    """
    if kind == "heic":
        register_heif()
    elif kind in CODECS and not features.check(CODECS[kind]):
        raise ModuleNotFoundError(
            f"this build of Pillow has no decoder of {FORMATS[kind]}: pip install --upgrade pillow"
        )
    check_header(encoded, kind)
    try:
        return Image.open(io.BytesIO(encoded), formats=(FORMATS[kind],))
    except UnidentifiedImageError as error:  # its text contains an address that varies
        raise ValueError(f"its header is not that of {FORMATS[kind]}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise OversizedImage(str(error)) from error


def check_header(encoded: bytes, kind: str) -> None:
    """Check what the libraries below PIL make room for before they look at the size.

    Raises:
        OversizedImage: A WebP or JPEG 2000 has more than MAX_PIXELS pixels.
        ValueError: A row of a compressed BMP is so long that 255 skipped ones fill the memory; or
            see `check_codestream`.
    """
    if kind == "jp2":
        check_codestream(encoded)
    if kind == "webp" and encoded[12:16] == b"VP8X":
        width, height = (1 + int.from_bytes(encoded[at : at + 3], "little") for at in (24, 27))
        if width * height > MAX_PIXELS:
            raise OversizedImage(f"{height} x {width} pixels exceed the limit of {MAX_PIXELS}")
    if kind == "bmp" and encoded[30:34] in RUN_LENGTHS:
        width = int.from_bytes(encoded[18:22], "little")
        if 256 * width > MAX_VALUES:
            raise ValueError(f"a row of {width} pixels in run lengths")


def register_heif() -> None:
    """Let PIL open HEIC.

    Raises:
        ModuleNotFoundError: The extra `heif` is not installed.
    """
    with extra("heif", "HEIC images need"):
        from pillow_heif import register_heif_opener
    register_heif_opener()
