"""Opening TIFFs with tifffile: any number of bands, of any depth."""

import io
import math
import re
from typing import TYPE_CHECKING

import numpy as np

from data.config import PixelConfig
from data.formats.alpha import ALPHA, on_background
from data.formats.directories import check_directories
from data.formats.jpeg import check_scans, frame_of
from data.formats.opened import Opened, check_volume
from data.formats.orientation import ORIENTATION, TURNED, TURNS
from data.formats.pil import FORMATS, open_pil, opened_by_pil
from data.formats.sniffing import kind_of
from fcmae.run.extras import extra

if TYPE_CHECKING:
    import tifffile

MOST_PAGES = 32  # that are taken for the bands of one image
MOST_PLANES = 10**5  # that OME metadata may declare, for each of which tifffile makes an entry
PIXELS = re.compile(r"<(?:\w+:)?Pixels\b[^>]*")
PLANES = re.compile(r"\bSize[ZCT]\s*=\s*[\"'](\d+)")


def open_tiff(encoded: bytes, kind: str, in_chans: int | None, config: PixelConfig) -> Opened:
    """Open a TIFF: the image of it that has most pixels, since a thumbnail may come first.

    Raises:
        ValueError: It holds several images, or axes that are no rows, columns and bands; or see
            `check_directories` and `check_segments`.
        OversizedImage: It has more than MAX_VALUES values, or more than MAX_BYTES.
        ModuleNotFoundError: The extra `tiff` is not installed.
    """
    file = opened_by_tifffile(encoded)
    import tifffile

    series = max(file.series, key=area)
    axes = series.axes  # without axes of length 1
    bands = axes.replace("Y", "").replace("X", "")
    if "Y" not in axes or "X" not in axes or len(bands) > 1:
        raise ValueError(
            f"TIFF axes {axes} of shape {series.shape}: rows, columns, bands wanted, one image a"
            " file"
        )
    height, width = (series.shape[axes.index(axis)] for axis in "YX")
    if bands not in ("", "S") and series.shape[axes.index(bands)] > MOST_PAGES:
        raise ValueError(
            f"it is a stack of {series.shape[axes.index(bands)]} images: save one image a file"
        )
    page = series.keyframe
    check_segments(encoded, series)
    photometric = tifffile.PHOTOMETRIC(page.photometric)
    if photometric in (photometric.PALETTE, photometric.SEPARATED, photometric.CIELAB):
        return open_pil(encoded, kind, in_chans, config)  # tifffile gives indices, inks and Lab
    if photometric in (photometric.ICCLAB, photometric.ITULAB):
        raise ValueError(f"colours in {photometric.name} cannot be read: convert the image to RGB")
    if photometric == photometric.YCBCR and page.compression != tifffile.COMPRESSION.JPEG:
        return open_pil(encoded, kind, in_chans, config)
    alpha = in_chans != 4 and has_alpha(page)
    premultiplied = alpha and page.extrasamples[0] == tifffile.EXTRASAMPLE.ASSOCALPHA

    def decode(*_: int) -> np.ndarray:
        image = series.asarray()
        if photometric == photometric.MINISWHITE and image.dtype.kind in "bu":
            image = ~image
        image = image.transpose([axes.index(axis) for axis in "YX" + bands])
        image = image if bands else image[..., None]
        return on_background(image, config, premultiplied) if alpha else image

    turn = page.tags.valueof(ORIENTATION, 1)
    turn = turn if turn in TURNS else 1
    remarks = (TURNED,) if turn != 1 else ()
    return Opened(
        height=height,
        width=width,
        decode=decode,
        turn=turn,
        remarks=remarks + ((ALPHA,) if alpha else ()),
    )


def opened_by_tifffile(encoded: bytes) -> "tifffile.TiffFile":
    """A TIFF that tifffile has read the first directory of, once all were checked.

    Raises:
        ValueError: See `check_directories`; or its metadata declare too many planes.
        ModuleNotFoundError: The extra `tiff` is not installed.
    """
    with extra("tiff", "TIFF images need"):
        import tifffile
    check_directories(encoded)
    file = tifffile.TiffFile(io.BytesIO(encoded))
    for element in PIXELS.findall(file.ome_metadata or ""):
        planes = math.prod(map(int, PLANES.findall(element)))
        if planes > MOST_PLANES:
            raise ValueError(f"its metadata declare {planes} planes: save one image a file")
    return file


def check_segments(encoded: bytes, series: "tifffile.TiffPageSeries") -> None:
    """Check that the strips or tiles of an image are there, and no larger than it needs.

    Raises:
        ValueError: Some are missing, one is a picture of more pixels, or values have no known type.
        OversizedImage: The image, or all strips or tiles together, are larger than images may be.
    """
    import tifffile

    page = series.keyframe
    if series.dtype is None:
        raise ValueError(f"samples of {page.bitspersample} bits are of no known type")
    check_volume(series.shape, series.dtype)
    pictures = page.compression in tifffile.TIFF.IMAGE_COMPRESSIONS  # with headers of their own
    count = math.prod(page.chunked)
    check_volume((len(series.pages), count, *page.chunks), series.dtype)
    for each in series.pages:
        if each is None:
            raise ValueError("a page is missing")
        if len(each.dataoffsets) < count and not page.is_contiguous:
            raise ValueError(f"{len(each.dataoffsets)} of {count} strips or tiles are there")
        if pictures:
            for start, size in zip(each.dataoffsets, each.databytecounts, strict=True):
                check_picture(encoded[start : start + size], math.prod(page.chunks))


def check_picture(segment: bytes, room: int) -> None:
    """Check that a strip or tile that is a picture has no more pixels than there is room for.

    Raises:
        ValueError: It has more; or see `data.formats.jpeg.check_scans`.
    """
    kind = kind_of(segment)
    if kind == "jpg":
        check_scans(segment)
        pixels = math.prod(frame_of(segment))
    elif kind in FORMATS:
        pixels = math.prod(opened_by_pil(segment, kind).size)
    else:
        return  # an empty one; or what its codec will not know either
    if pixels > room:
        raise ValueError(f"a strip or tile has {pixels} pixels, where there is room for {room}")


def area(series: "tifffile.TiffPageSeries") -> int:
    """The number of pixels of one band of an image in a TIFF; 0 where it has no rows or columns."""
    sizes = dict(zip(series.axes, series.shape, strict=True))
    return sizes.get("Y", 0) * sizes.get("X", 0)


def has_alpha(page: "tifffile.TiffPage") -> bool:
    """Whether the last sample of 8 or 16 bits is alpha: the file says so of one beyond its colours.

    Any other band, such as near infrared, is a channel.
    """
    return (
        page.dtype in (np.uint8, np.uint16)
        and page.samplesperpixel in (2, 4)
        and len(page.extrasamples) == 1
        and page.extrasamples[0] in (1, 2)  # associated with the colours, or not
    )
