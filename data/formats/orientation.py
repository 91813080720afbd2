"""The orientation of a photograph: a number of its EXIF, and how pixels and boxes follow it."""

import struct

import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]  # top, left, height, width in pixels

ORIENTATION = 0x0112  # the tag, of EXIF as of TIFF
EXIF = b"Exif\0\0"  # which an APP1 segment of a JPEG begins with
APP1 = 0xE1
SEGMENT = struct.Struct(">BBH")  # 255, its kind, and its length without these two
SCAN = 0xDA  # the segment that the pixels follow
TURNED = "are turned upright by the orientation that their EXIF says"
# whether rows and columns change places, and then which of the two are reversed
TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def turn_of(exif: bytes) -> int:
    """The orientation, from 1 to 8, that a block of EXIF says; 1, upright, if it says none."""
    block = Image.Exif()
    try:
        block.load(exif)
        found = block.get(ORIENTATION, 1)
    except Exception:  # a damaged block, which leads to every kind, says nothing of whole pixels
        return 1
    return found if isinstance(found, int) and found in TURNS else 1


def turn_of_jpeg(encoded: bytes) -> int:
    """The orientation of a JPEG, by a walk over its segments, which takes microseconds."""
    at = 2
    while at + SEGMENT.size <= len(encoded):
        mark, kind, length = SEGMENT.unpack_from(encoded, at)
        if mark != 0xFF or kind == SCAN or length < 2:
            break
        if kind == APP1 and encoded.startswith(EXIF, at + 4):
            return turn_of(encoded[at + 4 : at + 2 + length])
        at += 2 + length
    return 1


def upright(image: np.ndarray, turn: int) -> np.ndarray:
    """Turn stored pixels, [h, w, c], upright."""
    if turn == 1:
        return image
    swapped, rows, columns = TURNS[turn]
    image = image.swapaxes(0, 1) if swapped else image
    return np.ascontiguousarray(image[:: -1 if rows else 1, :: -1 if columns else 1])


def stored_box(box: Box, height: int, width: int, turn: int) -> Box:
    """Where a box of the upright image, of height x width pixels, lies in the stored one."""
    if turn == 1:
        return box
    swapped, rows, columns = TURNS[turn]
    top, left, h, w = box
    top = height - top - h if rows else top
    left = width - left - w if columns else left
    return (left, top, w, h) if swapped else (top, left, h, w)
