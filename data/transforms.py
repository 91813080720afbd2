"""From an opened image to a tensor: the random crop of pretraining, the centre crop of evaluation.

Randomness comes in as a generator: a sample's crop and flip are functions of (seed, epoch, sample).
"""

import math
import random
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from data.decode import Box, Picture

LOG_ASPECT = (math.log(3 / 4), math.log(4 / 3))

Image = UInt8[Tensor, "c h w"] | Float32[Tensor, "c h w"]


@dataclass(frozen=True)
class Crop:
    """RandomResizedCrop: a box of `scale` of the area, of log-uniform aspect ratio 3/4 to 4/3."""

    scale: tuple[float, float]
    flip: bool

    def __call__(self, picture: Picture, size: tuple[int, int], rng: random.Random) -> Image:
        """Decode the box, resize it (bicubic, antialiased), flip it with probability 1/2."""
        box, mirrored = self.draw(picture.height, picture.width, rng)
        image = resize(picture.read(box, size), size)
        return image.flip(-1) if mirrored else image

    def draw(self, h: int, w: int, rng: random.Random) -> tuple[Box, bool]:
        """The box, and whether it is to be flipped."""
        return self.box(h, w, rng), rng.random() < self.flip / 2

    def box(self, h: int, w: int, rng: random.Random) -> Box:
        """Top, left, height, width in pixels; after ten misses the largest centred box."""
        for _ in range(10):
            area = h * w * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(*LOG_ASPECT))
            height, width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 0 < height <= h and 0 < width <= w:
                # not randrange: what it draws may differ between versions of Python, random() not
                top, left = (int(rng.random() * (room + 1)) for room in (h - height, w - width))
                return top, left, height, width
        height, width = min(h, round(w * 4 / 3)), min(w, round(h * 4 / 3))
        return (h - height) // 2, (w - width) // 2, height, width


def centre_crop(picture: Picture, size: tuple[int, int]) -> Image:
    """Decode the largest centred box of the aspect ratio of `size`, and resize it to that."""
    return resize(picture.read(centre_box(picture.height, picture.width, size), size), size)


def centre_box(h: int, w: int, size: tuple[int, int]) -> Box:
    """Top, left, height, width in pixels of the largest centred box of the aspect of `size`."""
    scale = min(h / size[0], w / size[1])
    height, width = (max(1, round(side * scale)) for side in size)
    return (h - height) // 2, (w - width) // 2, height, width


def resize(
    image: UInt8[Tensor, "c h0 w0"] | Float32[Tensor, "c h0 w0"], size: tuple[int, int]
) -> Image:
    """Bicubic, antialiased. In 8 bits torch works on the bytes themselves, several at a time."""
    return F.interpolate(image[None], size, mode="bicubic", antialias=True)[0]


class Normalise(nn.Module):
    """(x - mean) / std per channel, on whatever device the module is moved to.

    Of 8-bit images, x is a 255th.

    Args:
        mean: of each channel on the scale 0 to 1, or one value for all.
        std: likewise.
        in_chans: channels of the images.

    Raises:
        ValueError: neither one value nor one per channel.
    """

    mean: Tensor
    std: Tensor
    scale: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], in_chans: int) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, in_chans):
                raise ValueError(
                    f"data.{name} has {len(values)} values for in_chans={in_chans}:"
                    " give one, or one a channel"
                )
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1))
        self.register_buffer("scale", 1 / self.std)

    def forward(
        self, images: UInt8[Tensor, "b c h w"] | Float32[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        # in place and without divisions: on a CPU each pass over a batch costs as much as its crops
        if images.dtype == torch.uint8:
            return images.float().sub_(255 * self.mean).mul_(self.scale / 255)
        return (images - self.mean).mul_(self.scale)

    def inverse(self, x: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
        """Back to the scale 0 to 1, clamped to it."""
        return (x * self.std + self.mean).clamp(0, 1)
