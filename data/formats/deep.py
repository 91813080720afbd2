"""Colours of more than 8 bits, which PIL cuts to 8: PNG and JPEG 2000 by imagecodecs."""

import re

import numpy as np

from data.config import PixelConfig
from data.formats.alpha import ALPHA, on_background
from data.formats.jpeg2000 import CODESTREAM
from data.formats.opened import Opened, check_volume
from data.formats.pil import open_pil
from fcmae.run.extras import extra

COMMENTS = rb"\s+(?:#[^\n]*\n\s*)*"  # blanks before a number of a PPM, and comments to their ends
PPM = re.compile(rb"P[36]" + COMMENTS + rb"\d+" + COMMENTS + rb"\d+" + COMMENTS + rb"(\d+)")


def open_still(encoded: bytes, kind: str, in_chans: int | None, config: PixelConfig) -> Opened:
    """Open a PNG, JPEG 2000 or PPM, with PIL unless that would lose bits that are asked for.

    Raises:
        ValueError: See `open_pil`; or a PPM has such colours.
        ModuleNotFoundError: See `open_pil`; or the extra `tiff` is needed, and not installed.
    """
    # PIL rounds those of JPEG 2000 up, so that the brightest of them turn black
    wanted = config.pixels == "float32" or config.range is not None or kind == "jp2"
    opened = open_pil(encoded, kind, in_chans, config)
    if not wanted or not has_deep_colours(encoded, kind):
        return opened
    if kind == "ppm":
        raise ValueError("16-bit colours of a PPM would lose 8 bits: store a PNG, TIFF or .npy")
    check_volume((opened.height, opened.width, 4), np.dtype(np.uint16))
    with extra("tiff", "colours of 16 bits need"):
        import imagecodecs
    read = imagecodecs.png_decode if kind == "png" else imagecodecs.jpeg2k_decode

    def decode(*_: int) -> np.ndarray:
        image = np.asarray(read(encoded))
        image = image if image.ndim == 3 else image[..., None]
        return on_background(image, config) if ALPHA in opened.remarks else image

    return Opened(
        height=opened.height,
        width=opened.width,
        decode=decode,
        turn=opened.turn,
        remarks=opened.remarks,
    )


def has_deep_colours(encoded: bytes, kind: str) -> bool:
    """Whether an image has colours, or grey with alpha, of more than 8 bits."""
    if kind == "png":
        return encoded[24:25] == b"\x10" and encoded[25:26] != b"\x00"  # 16 bits, not grey
    if kind == "ppm":
        header = PPM.match(encoded)
        return header is not None and int(header[1]) > 255
    at = encoded.find(CODESTREAM) + 2
    components = int.from_bytes(encoded[at + 38 : at + 40], "big")
    return components > 1 and encoded[at + 40] & 0x7F > 7  # bits less 1, and whether signed
