"""Damaged and hostile images: each a ValueError of one line, in little time, memory and noise."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from data.config import PixelConfig
from data.decode import OversizedImage, decode, open_image
from data.formats.damaged import LONGEST, one_line
from data.formats.directories import MOST_DIRECTORIES
from data.formats.jpeg import MOST_SCANS, frame_of, segments_of
from data.formats.orientation import SCAN
from data.making.mask_files import read_values
from data.pixel_labels import MASK, read_mask

FLOATS = PixelConfig(pixels="float32")
PICTURE = Image.fromarray(
    np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)  # 3 kB of each band
)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def npy(header: str | bytes, content: bytes = b"", version: int = 1, length: int | None = None):
    """A `.npy` with this text as its header, whose length may be another than is declared."""
    text = header if isinstance(header, bytes) else header.encode()
    size = struct.pack("<H" if version == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + content


def array(descr: str, shape: str, fortran: bool = False) -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}"


NPY = {
    "zero by zero": (npy(array("'|u1'", "(0, 0)")), "holds no number"),
    "negative": (npy(array("'|u1'", "(-1, 5)"), bytes(50)), "holds no number"),
    "overflow": (npy(array("'|u1'", f"({2**32}, {2**32})"), bytes(50)), "50 of the 18446744"),
    "400 digits": (npy(array("'|u1'", f"({'9' * 400}, 5)")), "bytes of its array|0 of the 4999"),
    "objects": (npy(array("'|O'", "(5, 5)"), bytes(200)), "values of object are no pixels"),
    "structure": (npy(array("[('a', '<f4')]", "(5, 5)"), bytes(100)), "are no pixels"),
    "arrays in it": (npy(array("'(3,)u1'", "(5, 5)"), bytes(100)), "are no pixels"),
    "dates": (npy(array("'<M8[ns]'", "(5, 5)"), bytes(200)), "are no pixels"),
    "gigabyte": (npy("{'descr'", version=2, length=2**30), "expected 1073741824 bytes"),
    "nested": (npy("(" * 5000), "cannot be decoded"),
    "minus": (npy("-" * 9000 + "1"), "cannot be decoded"),
    "a name": (npy(array("foo", "(5, 5)")), "malformed node"),
    "a call": (npy("__import__('os').abort()"), "malformed node"),
    "line feeds": (npy("\n\x1b[31m\n" * 99), "cannot be decoded"),
    "long": (npy("[" * 60000), "Header info length"),
    "version": (npy(array("'|u1'", "(5, 5)"), bytes(25), version=9), "cannot be decoded"),
}


@pytest.mark.parametrize("name", NPY)
def test_any_header_of_an_array_is_an_error_of_one_line(name):
    encoded, message = NPY[name]
    with pytest.raises(ValueError, match=message) as error:
        decode(encoded, "npy")
    text = str(error.value)
    assert text.isprintable()
    assert "0x" not in text
    assert len(text) < 2 * LONGEST


@pytest.mark.filterwarnings("ignore:Reading `.npy`")  # which `silence` drops outside of tests
def test_fortran_order_and_headers_of_python_2_are_read():
    values = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7)
    encoded = npy(array("'|u1'", "(5, 7)", fortran=True), values.tobytes("F"))
    assert np.array_equal(open_image(encoded, "npy").whole()[..., 0], values)
    encoded = npy(array("'|u1'", "(5L, 7L)"), values.tobytes())
    assert np.array_equal(open_image(encoded, "npy").whole()[..., 0], values)


def tiff(**changed: tuple[int, int, int] | None) -> bytes:
    """A TIFF of 10 x 10 grey pixels; `t256=(type, count, value)` changes a tag, or adds one."""
    tags: dict[int, tuple[int, int, int] | None] = {
        **{256: (4, 1, 10), 257: (4, 1, 10), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)},
        **{273: (4, 1, 300), 277: (3, 1, 1), 278: (4, 1, 10), 279: (4, 1, 100)},
        **{int(name[1:]): value for name, value in changed.items() if name != "next"},
    }
    entries = b"".join(struct.pack("<HHII", t, *v) for t, v in sorted(tags.items()) if v)
    after = changed.get("next") or (0, 0, 0)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries) // 12) + entries
    return (head + struct.pack("<I", after[2])).ljust(300, b"\0") + bytes(100)


def pages(count: int) -> bytes:
    """A TIFF of so many directories in a row, whose pixels are elsewhere."""
    entries = b"".join(
        struct.pack("<HHII", tag, 4, 1, value)
        for tag, value in ((256, 1), (257, 1), (258, 8), (262, 1), (273, 8), (278, 1), (279, 1))
    )
    size = 2 + len(entries) + 4
    parts = (
        struct.pack("<H", 7) + entries + struct.pack("<I", 8 + i * size if i < count else 0)
        for i in range(1, count + 1)
    )
    return b"II*\0" + struct.pack("<I", 8) + b"".join(parts)


def described(text: str) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((48, 64), np.uint8), description=text, metadata=None)
    return file.getvalue()


BOMB = zlib.compress(bytes(50 * 10**6), 9)  # 50 kB


def in_tiff(content: bytes, compression: int) -> bytes:
    """A TIFF of 10 x 10 pixels, whose one strip has this content."""
    return tiff(t259=(3, 1, compression), t279=(4, 1, len(content)))[:300] + content


def wide_jpeg(width: int) -> bytes:
    """A JPEG whose header says that it is as wide as it is high."""
    content = bytearray(saved(PICTURE.convert("L"), "JPEG"))
    at = next(at for kind, at in segments_of(bytes(content)) if kind == 0xC0)
    content[at + 5 : at + 9] = struct.pack(">HH", width, width)
    return bytes(content)


OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image>'
    '<Pixels DimensionOrder="XYZCT" Type="uint8" SizeX="64" SizeY="48" SizeZ="1000000000" SizeC="1"'
    ' SizeT="1"><TiffData/></Pixels></Image></OME>'
)
TIFF = {
    "no rows": (tiff(t257=(4, 1, 0)), "cannot be decoded"),
    "no columns": (tiff(t256=(4, 1, 0)), "10 x 0 pixels are no image"),
    "circle": (tiff(next=(0, 0, 8)), "its directories form a circle"),
    "pages": (pages(MOST_DIRECTORIES + 1), "more than 1000 directories"),
    "tag of 4 GB": (tiff(t270=(2, 2**32 - 1, 8)), "tag 270 declares 4294967295 bytes"),
    "tag of 32 GB": (tiff(t33550=(12, 2**32 - 1, 8)), "tag 33550 declares 34359738360 bytes"),
    "offsets": (tiff(t273=(4, 2**30, 8)), "tag 273 declares"),
    "overlap": (
        tiff(**{f"t{40000 + i}": (7, 300, 0) for i in range(9)}),
        "more bytes than",
    ),
    "no strips": (tiff(t273=None), "0 of 1 strips or tiles are there|cannot be decoded"),
    "deflate": (in_tiff(BOMB, 8), "cannot be decoded"),
    "JPEG": (in_tiff(wide_jpeg(65000), 7), "has 4225000000 pixels, where there is room for 100"),
    "planes": (described(OME), "declare 1000000000 planes"),
    "shape": (described('{"shape": [1000000000, 48, 64]}'), "stack of 1000000000 images"),
}


@pytest.mark.parametrize("name", TIFF)
def test_a_hostile_tiff_is_an_error_of_one_line_and_nothing_else_is_said(name, capfd, caplog):
    encoded, message = TIFF[name]
    with pytest.raises(ValueError, match=message) as error:
        decode(encoded, "tif")
    assert str(error.value).isprintable()
    assert capfd.readouterr() == ("", "")


def test_tiles_beyond_all_bounds_are_refused_before_room_is_made_for_them():
    sides = {"t322": (4, 1, 2**30), "t323": (4, 1, 16), "t324": (4, 1, 300), "t325": (4, 1, 100)}
    with pytest.raises(OversizedImage, match="exceeds the limit"):
        decode(tiff(**sides, t273=None, t278=None, t279=None, t259=(3, 1, 8)), "tif")
    wide = {"t256": (4, 1, 9000), "t257": (4, 1, 9000), "t258": (3, 1, 64), "t277": (3, 1, 4)}
    with pytest.raises(OversizedImage, match="of uint64 exceed the limit"):
        decode(tiff(**wide, t278=(4, 1, 9000)), "tif")


def test_a_mask_in_a_tiff_or_an_array_has_the_same_bounds():
    for encoded, message in (TIFF["circle"], TIFF["tag of 4 GB"], NPY["objects"], NPY["gigabyte"]):
        with pytest.raises(ValueError, match=message):
            read_values(encoded)


def test_a_jpeg_of_very_many_scans_is_refused():
    content = saved(PICTURE, "JPEG", progressive=True)
    usual = sum(kind == SCAN for kind, _ in segments_of(content))
    assert usual == 10
    last = content.rfind(b"\xff\xda")
    more = content[:-2] + content[last:-2] * (MOST_SCANS - usual) + content[-2:]
    assert decode(more + b"\xff\xda" * 99, "jpg").shape == (3, 48, 64)  # the image has ended there
    with pytest.raises(ValueError, match=f"it has {MOST_SCANS + 1} scans"):
        decode(more[:-2] + content[last:], "jpg")
    assert frame_of(content) == (48, 64)


def chunk(kind: bytes, content: bytes) -> bytes:
    sums = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + sums


@pytest.mark.parametrize(
    "bomb",
    [
        chunk(b"iCCP", b"x\0\0" + BOMB),
        chunk(b"zTXt", b"x\0\0" + BOMB),
        chunk(b"iTXt", b"x\0\1\0\0\0" + BOMB),
        chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(10**6), 9)) * 80,
    ],
)
def test_a_png_with_a_bomb_beside_its_pixels_is_broken(bomb):
    content = saved(PICTURE, "PNG")
    hostile = content[:33] + bomb + content[33:]
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(hostile, "png")
    with pytest.raises(ValueError, match=f"{MASK} cannot be decoded"):
        read_mask({MASK: hostile})


def test_more_pixels_than_a_header_declares_are_dropped():
    assert decode(in_tiff(b"\x80" + bytes(10**6), 5), "tif").shape == (1, 10, 10)
    header = struct.pack(">IIBBBBB", 10, 10, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", BOMB)
    assert decode(content + chunk(b"IEND", b""), "png").shape == (3, 10, 10)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_thousands_of_frames_only_the_first_is_decoded(kind):
    grey = np.asarray(PICTURE.convert("L"))
    frames = [Image.fromarray(grey ^ np.uint8(i)) for i in (1, 2)] * 500
    options = {"save_all": True, "append_images": frames, "lossless": True}
    content = saved(Image.fromarray(grey), kind, **options)
    assert np.array_equal(decode(content, kind.lower(), 1)[0].numpy(), grey)


def jp2(width: int, tile: int, *, precincts: bool = False, layers: int = 1) -> bytes:
    """A JPEG 2000 whose header says other sizes than its pixels have."""
    content = bytearray(saved(PICTURE, "JPEG2000"))
    at = content.find(b"\xff\x4f\xff\x51")
    content[at + 8 : at + 16] = struct.pack(">II", width, width)
    content[at + 24 : at + 32] = struct.pack(">II", tile, tile)
    at = content.find(b"ihdr")
    content[at + 4 : at + 12] = struct.pack(">II", width, width)
    at = content.find(b"\xff\x52")
    content[at + 6 : at + 8] = struct.pack(">H", layers)
    if precincts:
        length, levels = content[at + 3], content[at + 9]
        content[at + 4] |= 1
        content[at + 3] += levels + 1
        content[at + 2 + length : at + 2 + length] = bytes([0x00] + [0x11] * levels)
    return bytes(content)


CONTAINERS = {
    "jp2 size": (jp2(30000, 30000), "30000 x 30000 pixels exceed"),
    "jp2 tiles": (jp2(9000, 9), "it has 1000000 tiles"),
    "jp2 precincts": (jp2(9000, 9000, precincts=True), "code blocks and precincts"),
    "jp2 nothing": (jp2(0, 0), "0 x 0 pixels"),
    "bmp run lengths": (
        b"BM" + struct.pack("<IHHIIiiHHI", 99, 0, 0, 54, 40, 80 * 10**6, 1, 1, 8, 1) + bytes(99),
        "a row of 80000000 pixels in run lengths",
    ),
    "ppm nothing": (b"P6 0 0 255\n", "cannot be decoded"),
    "ppm huge": (b"P6 99999 99999 255\n", "exceeds limit"),
    "png nothing": (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0)),
        "cannot be decoded",
    ),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_header_that_asks_for_more_than_its_pixels_need_is_refused(name):
    encoded, message = CONTAINERS[name]
    for config in (PixelConfig(), FLOATS):
        with pytest.raises(ValueError, match=message):
            decode(encoded, "png", None, config)


def test_the_canvas_of_a_webp_is_bounded_before_it_is_made():
    content = bytearray(saved(PICTURE, "WEBP", save_all=True, append_images=[PICTURE.rotate(9)]))
    at = content.find(b"VP8X")
    content[at + 12 : at + 18] = b"\xff\x3f\0" * 2
    with pytest.raises(OversizedImage, match="16384 x 16384 pixels"):
        open_image(bytes(content), "webp")


def test_comments_of_a_ppm_take_no_time():
    content = b"P6 " + b"# " * 60 + b"\n5 5 255\n" + bytes(75)
    assert decode(content, "ppm", None, FLOATS).shape == (3, 5, 5)


def test_a_deflated_dicom_is_bounded():
    from data.formats.dicom import check_deflated

    meta = b"\x02\0\x10\0UI\x16\x001.2.840.10008.1.2.1.99\0"
    head = bytes(128) + b"DICM\x02\0\0\0UL\x04\0" + struct.pack("<I", len(meta)) + meta
    pack = zlib.compressobj(9, wbits=-15)
    small = pack.compress(bytes(10**6)) + pack.flush()
    check_deflated(head + small)
    with pytest.raises(zlib.error):
        check_deflated(head + b"\xff" + small)
    blocks = zlib.compressobj(1, wbits=-15)
    block = blocks.compress(bytes(2**20)) + blocks.flush(zlib.Z_FULL_FLUSH)
    with pytest.raises(OversizedImage, match="inflates to more than the limit"):
        check_deflated(head + block * 700)


def test_what_others_say_becomes_one_line():
    assert one_line("a\nb\x1b[31m  <X object at 0x7f00dead>") == "a b [31m <X object>"
    assert one_line("x" * 9999) == "x" * LONGEST + "..."
