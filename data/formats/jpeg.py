"""Opening JPEGs with libjpeg-turbo, whose transform can reduce them on the way.

A box of a JPEG that will shrink to half or less is decoded at 1/2, 1/4 or 1/8 of its scale. A JPEG
that will be resized is decoded with the faster transform, whose squared error in a crop is a
quarter to a half of that of JPEG itself at a quality of 90.
"""

import numpy as np
import simplejpeg
from PIL import Image

from data.config import PixelConfig
from data.formats.opened import Opened
from data.formats.orientation import TURNED, turn_of_jpeg
from data.formats.pil import open_pil

COLOURS = {"Gray": 1, "YCbCr": 3, "RGB": 3}  # CMYK is left to PIL


def open_jpeg(encoded: bytes, kind: str, in_chans: int | None, config: PixelConfig) -> Opened:
    """Open a JPEG; PIL does it for CMYK, an alpha channel, or a damaged header."""
    try:
        rows, columns, colours, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        return open_pil(encoded, kind, in_chans, config)
    height = int(rows)
    width = int(columns)
    chans = in_chans or COLOURS.get(colours)
    if colours not in COLOURS or chans not in (1, 3):
        return open_pil(encoded, kind, in_chans, config)

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
            image = open_pil(encoded, kind, chans, config).decode(1, exact)
            reduced = Image.fromarray(image.squeeze(2) if chans == 1 else image).reduce(k)
            return np.array(reduced).reshape(*reduced.size[::-1], chans)

    turn = turn_of_jpeg(encoded)
    remarks = () if turn == 1 else (TURNED,)
    return Opened(
        height=height, width=width, decode=decode, reducible=8, turn=turn, remarks=remarks
    )
