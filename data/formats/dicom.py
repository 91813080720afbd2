"""Opening DICOM images with pydicom: rescaled values, grey that grows with brightness, or RGB."""

import io

import numpy as np

from data.config import PixelConfig
from data.formats.opened import Opened
from fcmae.run.config import extra


def open_dicom(encoded: bytes, kind: str, in_chans: int | None, config: PixelConfig) -> Opened:
    """Open a DICOM image of one frame.

    Raises:
        ValueError: It has several frames, or no image.
        ModuleNotFoundError: The extra `dicom` is not installed.
    """
    with extra("dicom", "DICOM images need"):
        import pydicom
        from pydicom.pixels.processing import apply_color_lut, apply_rescale
    dataset = pydicom.dcmread(io.BytesIO(encoded))
    if "Rows" not in dataset or "Columns" not in dataset:
        raise ValueError("it holds no image")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ValueError(f"it is a stack of {frames} images: save one image a file")

    def decode(*_: int) -> np.ndarray:
        image = dataset.pixel_array  # YBR becomes RGB
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            image = apply_color_lut(image, dataset)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            image = inverted(image, int(dataset.BitsStored))
        image = whole_if_possible(apply_rescale(image, dataset))
        return image.reshape(dataset.Rows, dataset.Columns, -1)

    return Opened(height=int(dataset.Rows), width=int(dataset.Columns), decode=decode)


def inverted(image: np.ndarray, bits: int) -> np.ndarray:
    """Stored values of so many bits whose least one is the brightest, in the opposite order."""
    return ~image if image.dtype.kind == "i" else image.dtype.type(2**bits - 1) - image


def whole_if_possible(image: np.ndarray) -> np.ndarray:
    """Rescaled values as int32 if none of them has a fraction, or as float32."""
    if image.dtype.kind != "f":
        return image
    whole = image.astype(np.int32)
    return whole if np.array_equal(whole, image) else image.astype(np.float32)
