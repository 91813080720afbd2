"""Masks: the class of every pixel, in the member `seg.png`, cropped and flipped with the image.

A mask is a PNG in 8-bit grey, as large as its image. The value of a pixel is the number of its
class, or 255 for a pixel that belongs to no class and is ignored.
"""

import random
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from data.config import Fit
from data.decode import Picture, decode
from data.fitting import Fitted, cut, layout_of
from data.targets import Members
from data.transforms import Crop, Image, resize

MASK = "seg.png"
IGNORED = 255
GREY_8 = b"\x08\x00"  # bit depth and colour type, which are bytes 24 and 25 of a PNG


@dataclass(frozen=True)
class MaskTarget:
    """The mask of a sample.

    Attributes:
        classes: The number of classes.
        size: Height and width in pixels of the mask that stands for a missing one, all ignored.
    """

    classes: int
    size: tuple[int, int]

    @property
    def missing(self) -> UInt8[Tensor, "h w"]:
        return torch.full(self.size, IGNORED, dtype=torch.uint8)

    def __call__(self, members: Members) -> UInt8[Tensor, "h0 w0"]:
        encoded = members.get(MASK)
        if not isinstance(encoded, bytes):
            raise ValueError(f"no mask: expected a member {MASK}")
        if encoded[24:26] != GREY_8:  # PIL would turn palettes and fewer bits into brightness
            raise ValueError(f"{MASK} is no PNG in 8-bit grey: store class numbers, not colours")
        (mask,) = decode(encoded, "png", 1)
        beyond = mask[(mask >= self.classes) & (mask != IGNORED)]
        if len(beyond):
            raise ValueError(
                f"{MASK} has class {int(beyond.max())}, beyond the classes 0 to {self.classes - 1}"
                f" (and {IGNORED}, to be ignored)"
            )
        return mask


@dataclass(frozen=True)
class MaskedCrop:
    """Crop, resize and flip an image and its mask in the same way.

    Attributes:
        boxes: Draws the box and the flip; or fits the whole picture to one image, without tiles.
    """

    boxes: Crop | Fitted

    def __call__(
        self,
        picture: Picture,
        mask: UInt8[Tensor, "h0 w0"],
        size: tuple[int, int],
        rng: random.Random,
    ) -> tuple[Image, UInt8[Tensor, "h w"]]:
        """Give the image and its mask, both of `size`, which is height and width in pixels.

        Raises:
            ValueError: The mask is not as large as the image, or the image cannot be decoded.
        """
        h = picture.height
        w = picture.width
        if mask.shape != (h, w):
            raise ValueError(
                f"{MASK} has {mask.shape[0]} x {mask.shape[1]} pixels, its image {h} x {w}:"
                " they must be of one size"
            )
        if isinstance(self.boxes, Fitted):
            return self.boxes(picture, size), fit_mask(mask, size, self.boxes.fit)
        box, mirrored = self.boxes.draw(h, w, rng)
        image = resize(picture.read(box, size), size)
        top, left, height, width = box
        mask = resize_mask(mask[top : top + height, left : left + width], size)
        return (image.flip(-1), mask.flip(-1)) if mirrored else (image, mask)


def fit_mask(mask: UInt8[Tensor, "h0 w0"], size: tuple[int, int], fit: Fit) -> UInt8[Tensor, "h w"]:
    """Fit a mask to a size, as `Fitted` does its image; what is padded is ignored."""
    layout = layout_of(*mask.shape, size, fit)
    ignored = torch.tensor(IGNORED, dtype=torch.uint8)
    return cut(resize_mask(mask, layout.size), layout.corners[0], size, ignored)


def resize_mask(mask: UInt8[Tensor, "h0 w0"], size: tuple[int, int]) -> UInt8[Tensor, "h w"]:
    """Resize a mask by the nearest pixel, so that classes never mix.

    The mode nearest-exact goes by the centres of pixels, as the resizing of images does.
    """
    return F.interpolate(mask[None, None], size, mode="nearest-exact")[0, 0]
