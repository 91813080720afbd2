"""The format of an image is told by its bytes."""

import io

import numpy as np
import pytest
from PIL import Image, features

from data.formats.pil import FORMATS
from data.formats.sniffing import FIRST_BYTES, kind_of


@pytest.mark.parametrize("suffix", sorted(FORMATS.keys() - {"heic"}))  # which needs an extra
def test_what_pillow_writes_is_known_by_its_first_bytes(suffix):
    if FORMATS[suffix] not in (Image.init(), Image.SAVE)[1]:
        pytest.skip(f"Pillow writes no {suffix} here")
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("Pillow has no AVIF here")
    file = io.BytesIO()
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(file, FORMATS[suffix])
    assert kind_of(file.getvalue()) == suffix
    assert kind_of(file.getvalue()[:FIRST_BYTES]) == suffix


def test_arrays_and_dicom_are_known():
    file = io.BytesIO()
    np.save(file, np.zeros((4, 4)))
    assert kind_of(file.getvalue()) == "npy"
    assert kind_of(bytes(128) + b"DICM" + bytes(9)) == "dcm"
    assert kind_of(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic") == "heic"
    assert kind_of(b"\0\0\0\x20ftypmif1\0\0\0\0mif1avifmiaf") == "avif"


@pytest.mark.parametrize(
    "content",
    [b"", b"BMW is a car", b"P1 is a text", b"<html>", b"path,label\n1.jpg,2\n", bytes(500)],
)
def test_what_is_no_image_is_not_taken_for_one(content):
    assert kind_of(content) is None
