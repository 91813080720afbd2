"""Transforms from an opened image to a tensor: random crop, resizing and normalisation.

The random generator is an argument: crop and flip of a sample depend on (seed, epoch, sample).
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from data.config import check_statistics
from data.decode import Box, Picture

LOG_ASPECT = (math.log(3 / 4), math.log(4 / 3))

Image = UInt8[Tensor, "c h w"] | Float32[Tensor, "c h w"]


@dataclass(frozen=True)
class Crop:
    """The random crop of pretraining, with an aspect ratio from 3/4 to 4/3 (log-uniform).

    This is the RandomResizedCrop of torchvision, with a random flip.

    Attributes:
        scale: The share of the image's area that a crop keeps, as (from, to).
        flip: Whether half of the crops are mirrored left to right.
    """

    scale: tuple[float, float]
    flip: bool

    def __post_init__(self) -> None:
        smallest, largest = self.scale
        if not 0 < smallest <= largest <= 1:
            raise ValueError(
                f"scale {smallest:g} {largest:g}: shares of the image's area are 0 < from <= to <="
                " 1, such as 0.2 1"
            )

    def __call__(self, picture: Picture, size: tuple[int, int], rng: random.Random) -> Image:
        """Decode a random box of an image, and resize it to `size`, height and width in pixels."""
        box, mirrored = self.draw(picture.height, picture.width, rng)
        image = resize(picture.read(box, size), size)
        return image.flip(-1) if mirrored else image

    def draw(self, h: int, w: int, rng: random.Random) -> tuple[Box, bool]:
        """Draw a box of an image of h x w pixels, and whether it is mirrored."""
        return self.box(h, w, rng), rng.random() < self.flip / 2

    def box(self, h: int, w: int, rng: random.Random) -> Box:
        """Draw a box; after ten that do not fit, the place of the largest of 3/4 to 4/3 is drawn.

        So every part of a long picture is seen, though no box of the wanted area may fit into it.
        """
        for _ in range(10):
            area = h * w * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(*LOG_ASPECT))
            height = round(math.sqrt(area / aspect))
            width = round(math.sqrt(area * aspect))
            if 0 < height <= h and 0 < width <= w:
                break
        else:
            height = min(h, round(w * 4 / 3))
            width = min(w, round(h * 4 / 3))
        # not randrange, whose numbers may differ between versions of Python
        top, left = (int(rng.random() * (room + 1)) for room in (h - height, w - width))
        return top, left, height, width


def resize(
    image: UInt8[Tensor, "c h0 w0"] | Float32[Tensor, "c h0 w0"], size: tuple[int, int]
) -> Image:
    """Resize an image to (height, width) in pixels, bicubic and antialiased; see `sampled`."""

    def resized(x: Tensor) -> Tensor:
        return F.interpolate(x[None], size, mode="bicubic", antialias=True)[0]

    return sampled(image, resized)


def sampled(
    image: UInt8[Tensor, "c h0 w0"] | Float32[Tensor, "c h0 w0"],
    sample: Callable[[Tensor], Tensor],
) -> Image:
    """Sample an image at other places, each a weighted sum of pixels.

    Pixels that are missing, NaN, have no weight. They are missing in the result where they had more
    than half of it.

    Args:
        image: The image.
        sample: Gives the sums of an image without missing pixels.
    """
    if image.dtype == torch.uint8 or not (missing := image.isnan()).any():
        return sample(image)
    weight = sample((~missing).float())
    return torch.where(weight > 0.5, sample(image.nan_to_num(0.0)) / weight, torch.nan)


class Normalise(nn.Module):
    """Normalise images to (x - mean) / std for each channel, on the device of this module.

    The values of 8-bit images are divided by 255 first. Missing pixels, NaN, become 0: the mean.

    Args:
        mean: The mean of each channel on the scale 0 to 1, or one value for all channels.
        std: The standard deviation of each channel on the scale 0 to 1, or one value for all.
        in_chans: The number of channels.

    Raises:
        ValueError: There is neither one value, nor one for each channel; or see
            `check_statistics`.
    """

    mean: Tensor
    std: Tensor
    scale: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], in_chans: int) -> None:
        super().__init__()
        check_statistics(mean, std)
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
        x = (images - self.mean).mul_(self.scale)
        return x.nan_to_num_(nan=0.0, posinf=torch.inf, neginf=-torch.inf)

    def inverse(self, x: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
        """Turn normalised images back to the scale 0 to 1, and clamp them to it."""
        return (x * self.std + self.mean).clamp(0, 1)
