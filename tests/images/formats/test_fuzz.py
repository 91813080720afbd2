"""Images of every format with bytes changed at random: pixels, or a ValueError of one line."""

import io
import random

import numpy as np
import pytest
import tifffile
import torch

from data.config import PixelConfig
from data.decode import open_image
from data.fitting import Fitted
from data.formats.damaged import LONGEST
from data.transforms import Crop
from tests.images.formats.test_damaged import PICTURE, saved

SEEDS = 200  # of each format, a few milliseconds each


def as_tiff(image: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, image, **options)
    return file.getvalue()


def as_npy(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, image)
    return file.getvalue()


PIXELS = np.asarray(PICTURE)
FLOATS = (PIXELS / 255).astype(np.float32)
SOURCES = {
    "jpg": [saved(PICTURE, "JPEG"), saved(PICTURE, "JPEG", progressive=True)],
    "jpg-cmyk": [saved(PICTURE.convert("CMYK"), "JPEG")],
    "png": [saved(PICTURE.convert(mode), "PNG") for mode in ("RGB", "P", "RGBA")],
    "webp": [saved(PICTURE, "WEBP"), saved(PICTURE, "WEBP", lossless=True)],
    "tif": [
        as_tiff(PIXELS, photometric="rgb"),
        as_tiff(FLOATS, photometric="rgb", compression="zlib", predictor=True),
        as_tiff(PIXELS[..., 0], tile=(16, 16), compression="lzw"),
        as_tiff(PIXELS, photometric="rgb", ome=True),
        saved(PICTURE, "TIFF", compression="jpeg"),
        saved(PICTURE.convert("P"), "TIFF"),
    ],
    "npy": [as_npy(PIXELS), as_npy(FLOATS), as_npy(np.asfortranarray(PIXELS.astype(">u2")))],
    "gif": [saved(PICTURE, "GIF", save_all=True, append_images=[PICTURE.rotate(9)])],
    "bmp": [saved(PICTURE, "BMP"), saved(PICTURE.convert("P"), "BMP")],
    "ppm": [saved(PICTURE, "PPM")],
    "jp2": [saved(PICTURE, "JPEG2000")],
    "avif": [saved(PICTURE, "AVIF")],
}


def changed(content: bytes, rng: random.Random) -> bytes:
    """Flip bits, write numbers into the header, cut, leave out or put in."""
    out = bytearray(content)
    at = rng.randrange(len(out))
    kind = rng.randrange(6)
    if kind == 0:
        for _ in range(rng.choice((1, 2, 30))):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        for _ in range(rng.choice((1, 2, 4))):
            out[rng.randrange(min(len(out), 200))] = rng.choice((0, 127, 128, 255))
    elif kind == 2:
        del out[at:]
    elif kind == 3:
        del out[at : at + rng.randint(1, 64)]
    elif kind == 4:
        out[at:at] = rng.randbytes(rng.randint(1, 64))
    else:
        out[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4)))
    return bytes(out)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SOURCES)
def test_changed_bytes_give_finite_pixels_or_an_error_of_one_line(kind, capfd):
    for seed in range(SEEDS):
        rng = random.Random(f"{kind} {seed}")
        content = changed(rng.choice(SOURCES[kind]), rng)
        config = PixelConfig(pixels=rng.choice(("uint8", "float32")))
        try:
            picture = open_image(content, kind, rng.choice((None, 3)), config)
            for image in (
                Fitted()(picture, (16, 16)),
                Crop((0.2, 1.0), True)(picture, (16, 16), rng),
            ):
                assert not torch.isinf(image.float()).any(), seed
        except ValueError as error:
            text = str(error)
            assert text.isprintable(), seed
            assert "0x" not in text, seed
            assert len(text) < 2 * LONGEST, seed
    assert capfd.readouterr() == ("", "")
