"""A whole picture as a model takes it: its centre, all of it padded or squashed, or tiles of it.

A picture is resized to a layout's size first and cut then, as timm's and transformers' evaluation
do, in exact pixels. The sizes and the place of the centre are those of timm 1.0, `crop_pct` 1:
`crop`, `pad` and `squash` are its modes `center`, `border` and `squash`, to the bit for 8 bits.
"""

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image as PilImage
from torch import Tensor

from data.config import Fit
from data.decode import MAX_PIXELS, OversizedImage, Picture
from data.transforms import Image, resize

BICUBIC = PilImage.Resampling.BICUBIC
Tiles = UInt8[Tensor, "t c h w"] | Float32[Tensor, "t c h w"]


@dataclass(frozen=True)
class Layout:
    """Where the images that a model takes lie on a picture.

    Attributes:
        size: Height and width in pixels to which the picture is resized.
        corners: Top and left of each image on it; below 0 where the image is padded.
    """

    size: tuple[int, int]
    corners: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Fitted:
    """Fits a whole picture to a size; nothing is drawn.

    Attributes:
        fit: See `data.config.FittedConfig`.
        mean: The mean of each channel on the scale 0 to 1, or one value for all, for padding.
    """

    fit: Fit = "crop"
    mean: tuple[float, ...] = (0.0,)

    def __call__(
        self, picture: Picture, size: tuple[int, int], _rng: random.Random | None = None
    ) -> Image | Tiles:
        """Decode a picture and fit it to `size`, height and width in pixels.

        Returns:
            The image [c, h, w]; with tiles, all of them, [t, c, h, w].

        Raises:
            ValueError: The picture cannot be decoded.
            OversizedImage: It is so long that it would have too many pixels.
        """
        layout = layout_of(picture.height, picture.width, size, self.fit)
        whole = resize_as_pil(picture.read((0, 0, picture.height, picture.width)), layout.size)
        fill = torch.tensor(self.mean)
        if whole.dtype == torch.uint8:
            fill = (255 * fill).round().byte()
        images = [cut(whole, corner, size, fill.view(-1, 1, 1)) for corner in layout.corners]
        return torch.stack(images) if self.fit == "tiles" else images[0]


def layout_of(height: int, width: int, size: tuple[int, int], fit: Fit) -> Layout:
    """The layout of a picture of height x width pixels, for images of `size`.

    Raises:
        OversizedImage: The picture is so long that it would have too many pixels.
    """
    if fit == "squash":
        return Layout(size, ((0, 0),))
    sides = (height, width)
    ratios = [side / wanted for side, wanted in zip(sides, size, strict=True)]
    if fit == "pad":
        resized = [max(1, round(side / max(ratios))) for side in sides]
    elif size[0] == size[1]:  # rounded down, as torchvision does
        resized = [int(size[0] * side / min(sides)) for side in sides]
    else:
        resized = [round(side / min(ratios)) for side in sides]
    if math.prod(resized) > MAX_PIXELS:
        raise OversizedImage(
            f"{height} x {width} pixels become {resized[0]} x {resized[1]} where the shorter side"
            f" fits, beyond the limit of {MAX_PIXELS}: cut the picture, or take fit pad or squash"
        )
    room = [side - wanted for side, wanted in zip(resized, size, strict=True)]
    if fit == "tiles":
        rows, columns = (spread(r, wanted) for r, wanted in zip(room, size, strict=True))
        corners = tuple((top, left) for top in rows for left in columns)
    else:  # a half of a pixel is rounded to the even number, but down where the image is padded
        top, left = (round(r / 2) if r > 0 else -(-r // 2) for r in room)
        corners = ((top, left),)
    return Layout((resized[0], resized[1]), corners)


def spread(room: int, side: int) -> list[int]:
    """Evenly spaced places from 0 to `room`, as few as leave no gap between tiles of `side`."""
    steps = -(-room // side)
    return [round(i * room / max(1, steps)) for i in range(steps + 1)]


def cut(
    whole: Shaped[Tensor, "*c h0 w0"],
    corner: tuple[int, int],
    size: tuple[int, int],
    fill: Tensor,
) -> Shaped[Tensor, "*c h w"]:
    """Cut what lies at a corner out of an image or mask; beyond its edges there is `fill`."""
    top, left = corner
    inside = whole[..., max(0, top) : top + size[0], max(0, left) : left + size[1]]
    if inside.shape[-2:] == size:
        return inside
    out = fill.expand(*whole.shape[:-2], *size).clone()
    rows, columns = inside.shape[-2:]
    out[..., -min(0, top) :, -min(0, left) :][..., :rows, :columns] = inside
    return out


def resize_as_pil(
    image: UInt8[Tensor, "c h0 w0"] | Float32[Tensor, "c h0 w0"], size: tuple[int, int]
) -> Image:
    """Resize to (height, width) in pixels, bicubic and antialiased, 8 bits to the bits of Pillow.

    torch's own differs from it by one level in one of 300 values, which changes features by 1e-3.
    """
    if image.shape[1:] == size:
        return image
    if image.dtype != torch.uint8:
        return resize(image, size)
    height, width = size
    channels = [PilImage.fromarray(channel.numpy()) for channel in image.contiguous()]
    resized = [np.asarray(channel.resize((width, height), BICUBIC)) for channel in channels]
    return torch.from_numpy(np.stack(resized))
