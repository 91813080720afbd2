"""Small images, as bytes and as files."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".JPEG": "JPEG"}


def encoded(pixels: np.ndarray) -> bytes:
    """A PNG of these pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def png(seed: int, size: tuple[int, int] = (40, 48), mode: str = "RGB") -> bytes:
    """A PNG of noise; `size` is its height and width in pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, len(mode)), dtype=np.uint8)
    return encoded(pixels.squeeze())


def photograph(height: int, width: int) -> np.ndarray:
    """Noise over all scales, as photographs have it."""
    rng, image = np.random.default_rng(0), np.zeros((height, width, 3))
    for scale in (3, 8, 20, 50, 120, 300):
        small = rng.normal(size=(3, scale, scale)).astype(np.float32)
        for c in range(3):
            layer = Image.fromarray(small[c]).resize((width, height), Image.Resampling.BICUBIC)
            image[..., c] += np.asarray(layer) / scale**0.7
    image -= image.min()
    return (image * 255 / image.max()).astype(np.uint8)


def coloured(seed: int) -> np.ndarray:
    """Noise of 16 x 16 pixels, bright in the one of the three channels that `seed` % 3 says."""
    pixels = np.random.default_rng(seed).integers(0, 60, (16, 16, 3), dtype=np.uint8)
    pixels[..., seed % 3] += 180
    return pixels


def make_image(path: Path, seed: int) -> None:
    """A file of noise, in the format of its suffix; its folder is made, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format=FORMATS[path.suffix])


def write_images(folder: Path, count: int) -> list[Path]:
    """Files image0.png, image1.png and so on."""
    paths = [folder / f"image{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        make_image(path, i)
    return paths
