"""Bytes to tensors: decoding, the random crop of pretraining, the centre crop of evaluation.

Randomness comes in as a generator: a sample's crop and flip are functions of (seed, epoch, sample).
"""

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
BICUBIC = InterpolationMode.BICUBIC


def decode(encoded: bytes, in_chans: int) -> UInt8[Tensor, "c h w"]:
    """Decode a PNG or JPEG into `in_chans` channels: 1 grey, 3 RGB, 4 RGBA.

    16-bit grey keeps its upper 8 bits.

    Raises:
        ValueError: another number of channels, or bytes that are no image.
    """
    if in_chans not in MODES:
        raise ValueError(f"in_chans={in_chans}: PNG and JPEG images decode to 1, 3 or 4 channels")
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.mode.startswith("I"):  # 16-bit grey, which PIL's convert would clip at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            pixels = np.array(image.convert(MODES[in_chans]))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{len(encoded)} bytes cannot be decoded as an image ({error})") from error
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], in_chans)).permute(2, 0, 1)


@dataclass(frozen=True)
class Crop:
    """RandomResizedCrop: a box of `scale` of the area, of log-uniform aspect ratio 3/4 to 4/3."""

    scale: tuple[float, float]
    flip: bool

    def __call__(
        self,
        image: UInt8[Tensor, "c h0 w0"],
        size: tuple[int, int],
        rng: np.random.Generator,
    ) -> UInt8[Tensor, "c h w"]:
        """Crop, resize (bicubic, antialiased), flip with probability 1/2."""
        h, w = image.shape[1:]
        top, left, height, width = self.box(h, w, rng)
        image = F.resized_crop(image, top, left, height, width, list(size), BICUBIC, antialias=True)
        return F.horizontal_flip(image) if rng.random() < self.flip / 2 else image

    def box(self, h: int, w: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Top, left, height, width in pixels; after ten misses the largest centred box."""
        for _ in range(10):
            area = h * w * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            height, width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 0 < height <= h and 0 < width <= w:
                top, left = rng.integers(h - height + 1), rng.integers(w - width + 1)
                return int(top), int(left), height, width
        height, width = min(h, round(w * 4 / 3)), min(w, round(h * 4 / 3))
        return (h - height) // 2, (w - width) // 2, height, width


def centre_crop(image: UInt8[Tensor, "c h0 w0"], size: tuple[int, int]) -> UInt8[Tensor, "c h w"]:
    """Resize (bicubic, antialiased) until `size` just fits in, and cut out the centre."""
    scale = max(size[0] / image.shape[1], size[1] / image.shape[2])
    whole = [max(side, round(old * scale)) for side, old in zip(size, image.shape[1:], strict=True)]
    return F.center_crop(F.resize(image, whole, BICUBIC, antialias=True), list(size))


class Normalise(nn.Module):
    """(x / 255 - mean) / std per channel, on whatever device the module is moved to.

    Args:
        mean: of each channel on the scale 0 to 1, or one value for all.
        std: likewise.
        in_chans: channels of the images.

    Raises:
        ValueError: neither one value nor one per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], in_chans: int) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, in_chans):
                raise ValueError(
                    f"data.{name} has {len(values)} values for in_chans={in_chans}:"
                    " give one, or one a channel"
                )
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1))

    def forward(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return (images.float() / 255 - self.mean) / self.std

    def inverse(self, x: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
        """Back to the scale 0 to 1, clamped to it."""
        return (x * self.std + self.mean).clamp(0, 1)
