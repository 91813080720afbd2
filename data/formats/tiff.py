"""Opening TIFFs with tifffile: any number of bands, of any depth."""

import io
import math
from typing import TYPE_CHECKING

import numpy as np

from data.config import PixelConfig
from data.formats.alpha import ALPHA, on_background
from data.formats.opened import MAX_VALUES, Opened, OversizedImage
from data.formats.orientation import ORIENTATION, TURNED, TURNS
from data.formats.pil import open_pil
from fcmae.run.config import extra

if TYPE_CHECKING:
    import tifffile

MOST_PAGES = 32  # that are taken for the bands of one image


def open_tiff(encoded: bytes, kind: str, in_chans: int | None, config: PixelConfig) -> Opened:
    """Open a TIFF: the image of it that has most pixels, since a thumbnail may come first.

    Raises:
        ValueError: It holds several images, or axes that are no rows, columns and bands.
        OversizedImage: It has more than MAX_VALUES values.
        ModuleNotFoundError: The extra `tiff` is not installed.
    """
    with extra("tiff", "TIFF images need"):
        import tifffile
    series = max(tifffile.TiffFile(io.BytesIO(encoded)).series, key=area)
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
    if math.prod(series.shape) > MAX_VALUES:
        raise OversizedImage(f"{series.shape} ({axes}) exceeds the limit of {MAX_VALUES} values")
    page = series.keyframe
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
