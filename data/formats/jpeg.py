"""Opening JPEGs with libjpeg-turbo, whose transform can reduce them on the way.

A box of a JPEG that will shrink to half or less is decoded at 1/2, 1/4 or 1/8 of its scale. A JPEG
that will be resized is decoded with the faster transform, whose squared error in a crop is a
quarter to a half of that of JPEG itself at a quality of 90.
"""

import re
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image

from data.config import PixelConfig
from data.formats.opened import Opened
from data.formats.orientation import SCAN, SEGMENT, TURNED, turn_of_jpeg
from data.formats.pil import open_pil

MOST_SCANS = 32  # encoders make 10, and optimisers some 20; each takes a pass over all of the image
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the segments with height and width
SEQUENTIAL = (0xC0, 0xC1)  # of these, which are not progressive
END = 0xD9
MARK = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")  # a segment, among the bits of a scan
COLOURS = {"Gray": 1, "YCbCr": 3, "RGB": 3}  # CMYK is left to PIL


def open_jpeg(encoded: bytes, kind: str, in_chans: int | None, config: PixelConfig) -> Opened:
    """Open a JPEG; PIL does it for CMYK, an alpha channel, or a damaged header.

    Raises:
        ValueError: See `check_scans` and `open_pil`.
    """
    check_scans(encoded)
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


def check_scans(encoded: bytes) -> None:
    """Check that a JPEG has no more than MOST_SCANS scans.

    Raises:
        ValueError: It has more, which a file of a few kB may, to take minutes.
    """
    if is_in_one_scan(encoded) or encoded.count(b"\xff\xda") <= MOST_SCANS:
        return
    scans = sum(kind == SCAN for kind, _ in segments_of(encoded))
    if scans > MOST_SCANS:
        raise ValueError(f"it has {scans} scans, more than {MOST_SCANS}")


def is_in_one_scan(encoded: bytes) -> bool:
    """Whether the first scan of a JPEG has all of its pixels, by its header, in microseconds."""
    components = None
    for kind, at in segments_of(encoded):
        if kind in FRAMES:
            components = encoded[at + 9 : at + 10] if kind in SEQUENTIAL else None
        if kind == SCAN:
            return bool(components) and encoded[at + 4 : at + 5] == components
    return False


def frame_of(encoded: bytes) -> tuple[int, int]:
    """The height and width in pixels that the header of a JPEG says.

    Raises:
        ValueError: It says none.
    """
    for kind, at in segments_of(encoded):
        if kind in FRAMES and at + 9 <= len(encoded):
            sides = encoded[at + 5 : at + 9]
            return int.from_bytes(sides[:2], "big"), int.from_bytes(sides[2:], "big")
    raise ValueError("a JPEG without a frame")


def segments_of(encoded: bytes) -> Iterator[tuple[int, int]]:
    """Yield the kind and the place of each segment of a JPEG, up to the end of its image."""
    at = 2
    while found := MARK.search(encoded, at):
        at = found.end() - 2
        kind = encoded[at + 1]
        if kind == END or at + SEGMENT.size > len(encoded):
            return
        yield kind, at
        at += 2 + max(2, SEGMENT.unpack_from(encoded, at)[2])
