"""Opening DICOM images with pydicom: rescaled values, grey that grows with brightness, or RGB."""

import io
import zlib

import numpy as np

from data.config import PixelConfig
from data.formats.opened import MAX_BYTES, Opened, OversizedImage, check_volume
from fcmae.run.extras import extra

DEFLATED = b"1.2.840.10008.1.2.1.99"  # the transfer syntax whose elements are compressed
META = 144  # bytes before the elements that say the syntax; the last four are the length of those


def open_dicom(encoded: bytes, kind: str, in_chans: int | None, config: PixelConfig) -> Opened:
    """Open a DICOM image of one frame.

    Raises:
        ValueError: It has several frames, or no image.
        OversizedImage: It is larger than images may be.
        ModuleNotFoundError: The extra `dicom` is not installed.
    """
    with extra("dicom", "DICOM images need"):
        import pydicom
        from pydicom.pixels.processing import apply_color_lut, apply_rescale
    check_deflated(encoded)
    dataset = pydicom.dcmread(io.BytesIO(encoded))
    if "Rows" not in dataset or "Columns" not in dataset:
        raise ValueError("it holds no image")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ValueError(f"it is a stack of {frames} images: save one image a file")

    samples = int(dataset.get("SamplesPerPixel") or 1)
    bits = np.dtype(np.uint32 if int(dataset.get("BitsAllocated") or 8) > 16 else np.uint16)
    check_volume((int(dataset.Rows), int(dataset.Columns), samples), bits)

    def decode(*_: int) -> np.ndarray:
        image = dataset.pixel_array  # YBR becomes RGB
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            image = apply_color_lut(image, dataset)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            image = inverted(image, int(dataset.BitsStored))
        image = whole_if_possible(apply_rescale(image, dataset))
        return image.reshape(dataset.Rows, dataset.Columns, -1)

    return Opened(height=int(dataset.Rows), width=int(dataset.Columns), decode=decode)


def check_deflated(encoded: bytes) -> None:
    """Check that elements that are compressed have no more bytes than images may have.

    Raises:
        OversizedImage: They have more.
        zlib.error: They are damaged.
    """
    end = META + int.from_bytes(encoded[META - 4 : META], "little")
    if DEFLATED in encoded[META:end]:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        rest = encoded[end:]
        inflated = 0
        while rest and not inflate.eof:
            inflated += len(inflate.decompress(rest, 2**24))
            rest = inflate.unconsumed_tail
            if inflated > MAX_BYTES:
                raise OversizedImage(f"it inflates to more than the limit of {MAX_BYTES} bytes")


def inverted(image: np.ndarray, bits: int) -> np.ndarray:
    """Stored values of so many bits whose least one is the brightest, in the opposite order."""
    return ~image if image.dtype.kind == "i" else image.dtype.type(2**bits - 1) - image


def whole_if_possible(image: np.ndarray) -> np.ndarray:
    """Rescaled values as int32 if none of them has a fraction, or as float32."""
    if image.dtype.kind != "f":
        return image
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # too large ones become other numbers, or inf
        whole = image.astype(np.int32)
        return whole if np.array_equal(whole, image) else image.astype(np.float32)
