"""One picture as a model takes it: resized, cut and normalised as its weights tell."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from fcmae.weights.metadata import Metadata
from fcmae.weights.timm_creation import preprocessing

Picture = Image.Image | np.ndarray | Tensor | str | Path
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Transform:
    """Turns a picture into a normalised tensor `[c, h, w]`, as evaluation does it.

    The shorter side is resized to the model's size, the centre is cut out, and the channels are
    normalised. Pictures of Pillow, and paths of files that Pillow reads, go through timm's own
    transform, bit by bit; arrays `[h, w]` or `[h, w, c]` and tensors `[c, h, w]` keep their depth:
    8 and 16 bits become 0 to 1, floats are taken to be on that scale, unless the weights tell
    another range.

    Args:
        metadata: of the weights.
    """

    metadata: Metadata

    def __call__(self, picture: Picture) -> Float[Tensor, "c h w"]:
        """Transform one picture.

        Raises:
            OSError: a file cannot be read.
            ValueError: the picture has another number of channels than the model.
        """
        if isinstance(picture, str | Path):
            with Image.open(picture) as file:
                return self(ImageOps.exif_transpose(file))
        if isinstance(picture, Image.Image):
            return self._of_pillow(self._in_mode(picture))
        if isinstance(picture, np.ndarray):
            planes = picture[..., None] if picture.ndim == 2 else picture
            picture = torch.from_numpy(np.ascontiguousarray(np.moveaxis(planes, -1, 0)))
        return self._of_planes(picture)

    @cached_property
    def _of_pillow(self) -> Any:
        return create_transform(**preprocessing(self.metadata))

    def _in_mode(self, picture: Image.Image) -> Image.Image:
        """Convert a picture to the model's channels, on the background that the weights tell."""
        channels = self.metadata.in_chans
        if channels not in MODES:
            raise ValueError(
                f"the model takes {channels} channels, which no picture of Pillow has: give an"
                " array [h, w, c] or a tensor [c, h, w]"
            )
        if channels < 4 and picture.has_transparency_data:
            ground = Image.new("RGBA", picture.size, (*self.metadata.background, 255))
            picture = Image.alpha_composite(ground, picture.convert("RGBA"))
        return picture.convert(MODES[channels])

    def _of_planes(self, planes: Tensor) -> Tensor:
        """Transform planes `[c, h, w]` without rounding them to 8 bits."""
        metadata = self.metadata
        if planes.ndim != 3 or len(planes) != metadata.in_chans:
            raise ValueError(
                f"a picture of shape {tuple(planes.shape)} does not fit: the model takes"
                f" {metadata.in_chans} channels, as a tensor [c, h, w] or an array [h, w, c]"
            )
        height, width = metadata.image_size
        sides = planes.shape[1:]
        scale = max(height / sides[0], width / sides[1])
        whole = int if height == width else round  # as timm does
        pixels = F.resize(
            in_unit_range(planes, metadata),
            [whole(scale * side) for side in sides],
            InterpolationMode.BICUBIC,
            antialias=True,
        )
        pixels = F.center_crop(pixels, [height, width])
        return F.normalize(pixels, list(metadata.channel_mean), list(metadata.channel_std))

    def inverse(self, images: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
        """Undo the normalisation: values on the scale 0 to 1, not clipped."""
        mean, std = (
            torch.tensor(values)[:, None, None]
            for values in (self.metadata.channel_mean, self.metadata.channel_std)
        )
        return images * std + mean


def in_unit_range(planes: Tensor, metadata: Metadata) -> Float[Tensor, "c h w"]:
    """Bring stored values to the scale 0 to 1, as the weights tell."""
    if metadata.range is not None:
        low, high = metadata.range
        return ((planes.float() - low) / (high - low)).clamp(0, 1)
    if planes.is_floating_point():
        return planes.float()
    return planes.float() / torch.iinfo(planes.dtype).max
