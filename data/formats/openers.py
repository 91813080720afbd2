"""The opener of each format that `kind_of` knows."""

from collections.abc import Callable

from data.config import PixelConfig
from data.formats.deep import open_still
from data.formats.dicom import open_dicom
from data.formats.jpeg import open_jpeg
from data.formats.npy import open_npy
from data.formats.opened import Opened
from data.formats.pil import open_pil
from data.formats.tiff import open_tiff

Opener = Callable[[bytes, str, int | None, PixelConfig], Opened]
OPENERS: dict[str, Opener] = {
    "jpg": open_jpeg,
    "png": open_still,
    "webp": open_pil,
    "tif": open_tiff,
    "npy": open_npy,
    "gif": open_pil,
    "bmp": open_pil,
    "ppm": open_still,
    "jp2": open_still,
    "avif": open_pil,
    "heic": open_pil,
    "dcm": open_dicom,
}
