"""Masks: the class of every pixel, in the member `seg.png`, cropped and flipped with the image.

A mask is a PNG as large as its image, in grey or with a palette, or in colours whose three values
are equal. The grey value, or the index in the palette, is the number of the pixel's class, unless
other values stand for the classes; 255 is a pixel that belongs to no class and is ignored.
"""

import io
import random
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image as Pillow
from torch import Tensor
from torch.nn import functional as F

from data.config import IGNORED, Fit
from data.decode import MAX_PIXELS, OversizedImage, Picture
from data.fitting import Fitted, cut, layout_of
from data.formats.damaged import named_errors
from data.targets import Members
from data.transforms import Crop, Image, resize

MASK = "seg.png"
VALUES = 256  # that a pixel of a mask may have
UNKNOWN = -1  # the class of a value that stands for none
SIGNATURE = b"\x89PNG"
GREY = 0  # colour type, which is byte 25 of a PNG; byte 24 is the bit depth


@dataclass(frozen=True)
class MaskTarget:
    """The mask of a sample.

    Attributes:
        classes: The number of classes.
        size: Height and width in pixels of the mask that stands for a missing one, all ignored.
        values: The value that stands for each class; empty if the values are the classes' numbers.
    """

    classes: int
    size: tuple[int, int]
    values: tuple[int, ...] = ()

    @property
    def missing(self) -> UInt8[Tensor, "h w"]:
        return torch.full(self.size, IGNORED, dtype=torch.uint8)

    def __call__(self, members: Members) -> UInt8[Tensor, "h0 w0"]:
        mask = read_mask(members)
        values = self.values or range(self.classes)
        table = torch.full([VALUES], UNKNOWN, dtype=torch.int16)
        table[IGNORED] = IGNORED
        table[list(values)] = torch.arange(self.classes, dtype=torch.int16)
        numbers = table[mask.long()]
        beyond = mask[numbers == UNKNOWN]
        if len(beyond):
            known = f"0 to {self.classes - 1}" if not self.values else ", ".join(map(str, values))
            ignored = "" if IGNORED in values else f" (and {IGNORED}, to be ignored)"
            raise ValueError(
                f"{MASK} has class {int(beyond.max())}, beyond the classes {known}{ignored}:"
                " correct it, or name the values that stand for classes with --mask_values"
            )
        return numbers.to(torch.uint8)


def read_mask(members: Members) -> UInt8[Tensor, "h0 w0"]:
    """The values of a sample's mask: grey values, not stretched to 8 bits, or palette indices.

    Raises:
        ValueError: The sample has no mask, or one that is no PNG, is damaged, has colours, or
            values above 255.
        OversizedImage: The mask has more than MAX_PIXELS pixels.
    """
    encoded = members.get(MASK)
    if not isinstance(encoded, bytes):
        raise ValueError(f"no mask: expected a member {MASK}")
    if not encoded.startswith(SIGNATURE):
        raise ValueError(f"{MASK} is no PNG: others lose values, store class numbers in a PNG")
    with named_errors(MASK):
        image = Pillow.open(io.BytesIO(encoded), formats=["PNG"])
        if image.width * image.height > MAX_PIXELS:
            raise OversizedImage(f"{MASK} has more than the limit of {MAX_PIXELS} pixels")
        values = np.array(image)
    depth, colour_type = encoded[24:26]
    if values.ndim == 3 and values.shape[2] == 3 and (values == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim == 3:
        raise ValueError(f"{MASK} has colours: store class numbers, in grey or with a palette")
    if colour_type == GREY and 1 < depth < 8:
        values = values // (255 // (2**depth - 1))  # Pillow stretches them to 255
    if values.max() >= VALUES:
        raise ValueError(f"{MASK} has class {values.max()}: a mask tells classes 0 to 254 apart")
    return torch.from_numpy(values.astype(np.uint8))


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
        check_size(mask, h, w)
        if isinstance(self.boxes, Fitted):
            return self.boxes(picture, size), fit_mask(mask, size, self.boxes.fit)
        box, mirrored = self.boxes.draw(h, w, rng)
        image = resize(picture.read(box, size), size)
        top, left, height, width = box
        mask = resize_mask(mask[top : top + height, left : left + width], size)
        return (image.flip(-1), mask.flip(-1)) if mirrored else (image, mask)


def check_size(mask: UInt8[Tensor, "h0 w0"], height: int, width: int) -> None:
    """Check that a mask is as large as its image, whose height and width are in pixels.

    Raises:
        ValueError: It is not.
    """
    if mask.shape != (height, width):
        raise ValueError(
            f"{MASK} has {mask.shape[0]} x {mask.shape[1]} pixels, its image {height} x {width}:"
            " they must be of one size; resize the mask by the nearest pixel"
        )


def fit_mask(mask: UInt8[Tensor, "h0 w0"], size: tuple[int, int], fit: Fit) -> UInt8[Tensor, "h w"]:
    """Fit a mask to a size, as `Fitted` does its image; what is padded is ignored."""
    height, width = mask.shape
    layout = layout_of(height, width, size, fit)
    ignored = torch.tensor(IGNORED, dtype=torch.uint8)
    return cut(resize_mask(mask, layout.size), layout.corners[0], size, ignored)


def resize_mask(mask: UInt8[Tensor, "h0 w0"], size: tuple[int, int]) -> UInt8[Tensor, "h w"]:
    """Resize a mask by the nearest pixel, so that classes never mix.

    The mode nearest-exact goes by the centres of pixels, as the resizing of images does.
    """
    return F.interpolate(mask[None, None], size, mode="nearest-exact")[0, 0]
