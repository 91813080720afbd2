"""The header of a JPEG 2000 codestream: its size, and how many parts a decoder makes room for.

Source: ISO/IEC 15444-1, annex A: the segments SIZ and COD.
"""

import math
import struct
from collections.abc import Iterator

from data.formats.opened import MAX_PIXELS, OversizedImage

CODESTREAM = b"\xff\x4f\xff\x51"  # of a JPEG 2000: the start, and the segment of sizes
SIZES = struct.Struct(">8IH")  # of the canvas, its offset, a tile and its offset; the components
CODING = 0x52
TILES = 0x90  # the segment that ends the header
SEGMENT = struct.Struct(">BBH")
MOST_TILES = 2**14
MOST_PARTS = 2**21  # code blocks and precincts; a usual one of 89 million pixels has 2**17
MOST_PACKETS = 2**26  # a precinct of a layer


def check_codestream(encoded: bytes) -> None:
    """Check that a JPEG 2000 asks for no more room and time than its pixels need.

    Raises:
        OversizedImage: It has more than MAX_PIXELS pixels.
        ValueError: It is cut into more tiles, code blocks, precincts or layers than files have.
    """
    start = encoded.find(CODESTREAM)
    if start < 0 or start + 42 > len(encoded):
        raise ValueError("it has no codestream")
    x1, y1, x0, y0, tile_x, tile_y, _, _, components = SIZES.unpack_from(encoded, start + 8)
    width, height = x1 - x0, y1 - y0
    if width < 1 or height < 1 or tile_x < 1 or tile_y < 1:
        raise ValueError(f"{height} x {width} pixels in tiles of {tile_y} x {tile_x}")
    if width * height > MAX_PIXELS:
        raise OversizedImage(f"{height} x {width} pixels exceed the limit of {MAX_PIXELS}")
    tiles = math.ceil(width / tile_x) * math.ceil(height / tile_y)
    if tiles > MOST_TILES:
        raise ValueError(f"it has {tiles} tiles, more than {MOST_TILES}")
    for kind, at in header_of(encoded, start + 2):
        if kind != CODING or at + 14 > len(encoded):
            continue
        layers = int.from_bytes(encoded[at + 6 : at + 8], "big")
        levels, block_x, block_y = encoded[at + 9 : at + 12]
        sides = encoded[at + 14 : at + 15 + levels] if encoded[at + 4] & 1 else bytes([0xFF])
        precincts = tiles * (levels + 1)
        for level, side in enumerate(reversed(sides)):  # the first are those of the smallest image
            columns = math.ceil((width >> level) / 2 ** (side & 15))
            precincts += columns * math.ceil((height >> level) / 2 ** (side >> 4))
        blocks = width * height >> (block_x & 15) + (block_y & 15) + 4
        parts = components * (precincts + blocks)
        if parts > MOST_PARTS or components * precincts * layers > MOST_PACKETS:
            raise ValueError(f"it has {parts} code blocks and precincts, and {layers} layers")


def header_of(encoded: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yield the kind and the place of each segment from `at` on, up to the first tile."""
    while at + SEGMENT.size <= len(encoded):
        mark, kind, length = SEGMENT.unpack_from(encoded, at)
        if mark != 0xFF or kind == TILES or length < 2:
            return
        yield kind, at
        at += 2 + length
