"""Small changes of random crops: turned, brighter or darker, of more or less contrast and colour.

What is drawn follows the draws of the crop, out of the same generator: crops stay where they were.
Brightness and contrast are those of measured values as well as of photographs: both are relative to
what the data are, and not to a scale from black to white.
"""

import math
import random
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from data.config import JitterConfig, Pixels
from data.decode import Picture
from data.transforms import Crop, Image, sampled

HUE = 0.25  # of the change of saturation, as in SimCLR (arXiv 2002.05709, appendix A)
DRAWS = 5  # always all of them, so that none depends on what else is asked for


class JitteredCrop:
    """A random crop that is changed a little: a function of the sample's generator.

    Args:
        crop: The crop.
        config: How much it is changed.
        std: The standard deviation of each channel on the scale 0 to 1, or one value for all.
        in_chans: The number of channels.
        pixels: "uint8" or "float32".

    Raises:
        ValueError: Colours are to change, and the images are not of 8 bits in red, green and blue.
    """

    def __init__(
        self,
        crop: Crop,
        config: JitterConfig,
        std: tuple[float, ...],
        in_chans: int,
        pixels: Pixels,
    ) -> None:
        if config.colour and (in_chans, pixels) != (3, "uint8"):
            raise ValueError(
                f"data.jitter.colour={config.colour:g} changes the colours of 8-bit images of red,"
                f" green and blue, not of {in_chans} channels of {pixels}: give 0; brightness and"
                " contrast work on all images"
            )
        self.crop = crop
        self.config = config
        self.std = torch.tensor(std).view(-1, 1, 1)

    def __call__(self, picture: Picture, size: tuple[int, int], rng: random.Random) -> Image:
        """Decode a random box of an image, resize it to `size` in pixels, and change it."""
        image = self.crop(picture, size, rng)
        turn, shift, gain, saturation, hue = (rng.uniform(-1, 1) for _ in range(DRAWS))
        config = self.config
        if config.rotate:
            image = changed(image, lambda x: rotated(x, config.rotate * turn))
        if config.brightness or config.contrast:
            unit = self.std * (255 if image.dtype == torch.uint8 else 1)
            lighter = config.brightness * shift * unit
            factor = 1 + config.contrast * gain
            image = changed(image, lambda x: lighter + factor * (x - mean_of(x)) + mean_of(x))
        if config.colour:
            image = recoloured(image, config.colour * saturation, HUE * config.colour * hue)
        return image


def changed(image: Image, change: Callable[[Tensor], Tensor]) -> Image:
    """Change an image in floats; of 8 bits, it is rounded and clipped to these again."""
    if image.dtype == torch.uint8:
        return change(image.float()).round_().clamp_(0, 255).to(torch.uint8)
    return change(image)


def mean_of(x: Float[Tensor, "c h w"]) -> Float[Tensor, "c 1 1"]:
    """The mean of each channel over the pixels that are not missing."""
    return x.nanmean((1, 2), keepdim=True)


def rotated(image: Float[Tensor, "c h w"], degrees: float) -> Float[Tensor, "c h w"]:
    """Turn an image about its centre, bicubic; beyond its edges it goes on as in a mirror.

    Args:
        image: The image.
        degrees: The angle, clockwise.
    """
    h, w = image.shape[1:]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # from places in the result to places in the image, in units of half a side
    turn = torch.tensor([[[cosine, sine * h / w, 0], [-sine * w / h, cosine, 0]]])
    grid = F.affine_grid(turn, [1, 1, h, w], align_corners=False)

    def turned(x: Tensor) -> Tensor:
        return F.grid_sample(x[None], grid, "bicubic", "reflection", align_corners=False)[0]

    return sampled(image, turned)


def recoloured(image: Image, saturation: float, hue: float) -> Image:
    """Change the colours of an image of red, green and blue in 8 bits.

    Args:
        image: The image.
        saturation: By how much of itself the distance from grey grows.
        hue: By which share of the circle of colours they turn.
    """
    from torchvision.transforms.v2.functional import (  # half a second, which few runs need
        adjust_hue,
        adjust_saturation,
    )

    return adjust_hue(adjust_saturation(image, 1 + saturation), hue)
