"""Decoding images of any format to pixels in 8 bits or as float32.

An image is opened first, which reads its size, and decoded once it is known which box is needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from data.config import EIGHT_BITS, IMAGE_SUFFIXES, PixelConfig
from data.formats.damaged import named_errors
from data.formats.opened import MAX_PIXELS, Opened, OversizedImage
from data.formats.openers import OPENERS
from data.formats.orientation import Box, stored_box, upright
from data.formats.sniffing import kind_of
from data.shards.members import image_suffix
from data.values import Statistics, to_channels, to_floats, to_type


def encoded_image(members: Mapping[str, str | bytes], image: str = "") -> tuple[bytes, str]:
    """The encoded image of a sample and its suffix.

    Args:
        members: The members of the sample by suffix.
        image: The suffix that the image has, such as "input.jpg"; "" for the first of
            IMAGE_SUFFIXES that is there.

    Raises:
        ValueError: The sample has no image.
    """
    suffix = image_suffix(members, image)
    if suffix is None:
        wanted = f"a member {image!r}" if image else f"one of {', '.join(IMAGE_SUFFIXES)}"
        raise ValueError(f"no image: expected {wanted}")
    encoded = members[suffix]
    assert isinstance(encoded, bytes)  # only __key__ is a str
    return encoded, suffix


@dataclass(frozen=True)
class Picture:
    """An image whose size is known and whose pixels are not decoded yet; it stands upright.

    Attributes:
        opened: The image as its file stores it.
        in_chans, config: See `open_image`.
        statistics: Of the pixels, which tell values of floats that cannot be measured ones; None
            takes all.
    """

    opened: Opened
    in_chans: int | None
    config: PixelConfig
    statistics: Statistics | None = None

    @property
    def height(self) -> int:
        """The height in pixels."""
        return self.opened.width if self.opened.turn > 4 else self.opened.height

    @property
    def width(self) -> int:
        """The width in pixels."""
        return self.opened.height if self.opened.turn > 4 else self.opened.width

    @property
    def box(self) -> Box:
        """All of the image: top, left, height and width in pixels."""
        return (0, 0, self.height, self.width)

    def read(
        self, box: Box, size: tuple[int, int] = (0, 0)
    ) -> UInt8[Tensor, "c h w"] | Float32[Tensor, "c h w"]:
        """Decode a box of the image, which the caller then resizes to `size`.

        The box is reduced while it stays as large as `size`, to multiples of the reduction. Pixels
        that are missing are NaN.

        Args:
            box: Top, left, height and width in pixels.
            size: Height and width in pixels; (0, 0) for the exact pixels, without a reduction.

        Raises:
            ValueError: The pixels cannot be decoded, or not to these channels and this type; none
                of the whole image was measured; or see `Statistics.check`.
        """
        stored = self.stored(box, size)
        pixels = to_type(stored, self.config)
        if pixels.dtype == np.float32 and np.isnan(pixels[0, 0, 0]) and np.isnan(pixels).all():
            whole = pixels if box == self.box else to_floats(self.whole(), self.config)
            if np.isnan(whole).all():  # a box of a map may be
                raise ValueError("all pixels are missing, NaN or the value of --data.nodata")
        if self.statistics is not None and stored.dtype.kind == "f" and self.config.range is None:
            self.statistics.check(pixels)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def stored(self, box: Box, size: tuple[int, int] = (0, 0)) -> np.ndarray:
        """Decode a box as `read` does, to [h, w, c] of the type and the values of the file.

        Raises:
            ValueError: The pixels cannot be decoded, or not to these channels.
        """
        k = 1
        while 0 < size[0] <= box[2] // (2 * k) and 0 < size[1] <= box[3] // (2 * k):
            k *= 2
        k = min(k, self.opened.reducible)
        turn = self.opened.turn
        top, left, height, width = stored_box(box, self.height, self.width, turn)
        with named_errors("the image"):
            decoded = self.opened.decode(k, size == (0, 0))
            told = (-(-self.opened.height // k), -(-self.opened.width // k))
            if decoded.shape[:2] != told:
                rows, columns = decoded.shape[:2]
                raise ValueError(f"{rows} x {columns} pixels, where the header says {told}")
        decoded = decoded[top // k :, left // k :][: height // k, : width // k]
        if decoded.dtype == np.bool_:
            decoded = decoded.astype(np.uint8) * np.uint8(255)
        return to_channels(upright(decoded, turn), self.in_chans)

    def whole(self) -> np.ndarray:
        """Decode the whole image to exact pixels, [h, w, c] of the type of the file."""
        return self.stored(self.box)


def open_image(
    encoded: bytes,
    suffix: str,
    in_chans: int | None = None,
    config: PixelConfig = EIGHT_BITS,
    statistics: Statistics | None = None,
) -> Picture:
    """Open an image, which reads its size but does not decode it yet.

    Args:
        encoded: The bytes of the image. They say which format it has, whatever its suffix. A `.npy`
            array is [h, w], [h, w, c] or [c, h, w].
        suffix: The suffix of its name without the dot, for errors.
        in_chans: The number of channels; None for that of the file, without alpha. 8-bit images
            become grey (1), RGB (3) or RGBA (4), grey ones of any depth RGB; others must have as
            many channels. Transparent ones are shown on a background, unless `in_chans` is 4.
        config: How stored values become pixels. The type "uint8" gives 8 bits, which of 16 bits are
            the upper ones. "float32" scales the range of 8 or 16 bits to 0 to 1, and leaves floats
            as they are. A range that `config` gives is scaled for either type.
        statistics: See `Picture`.

    Raises:
        ValueError: The bytes are no image that is known.
        OversizedImage: The image has more than MAX_PIXELS pixels.
        ModuleNotFoundError: The format needs an extra that is not installed.
    """
    with named_errors(f"{len(encoded)} bytes"):
        kind = kind_of(encoded)
        if kind is None:
            raise ValueError(f"no known format, though its name ends in .{suffix}")
        opened = OPENERS[kind](encoded, kind, in_chans, config)
        if opened.height < 1 or opened.width < 1:
            raise ValueError(f"{opened.height} x {opened.width} pixels are no image")
    if opened.height * opened.width > MAX_PIXELS:
        raise OversizedImage(
            f"{opened.height} x {opened.width} pixels exceed the limit of {MAX_PIXELS}"
        )
    return Picture(opened, in_chans, config, statistics)


def decode(
    encoded: bytes, suffix: str, in_chans: int | None = None, config: PixelConfig = EIGHT_BITS
) -> UInt8[Tensor, "c h w"] | Float32[Tensor, "c h w"]:
    """Decode a whole image to exact pixels. The arguments are those of `open_image`.

    Raises:
        ValueError, ModuleNotFoundError: See `open_image` and `Picture.read`.
    """
    picture = open_image(encoded, suffix, in_chans, config)
    return picture.read(picture.box)
