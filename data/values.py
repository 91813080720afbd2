"""Stored values of any depth to pixels: the channels, the range and the type that are asked for."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from PIL import Image

from data.config import PixelConfig, StoredConfig
from data.formats.pil import MODES

Range = tuple[float, float]
FAR = 5000  # standard deviations: measured values are nearer, and marks such as -9999 beyond


def to_channels(image: np.ndarray, in_chans: int | None) -> np.ndarray:
    """Convert an image, [h, w, c], to `in_chans` channels; None for those that it has.

    Raises:
        ValueError: It has other channels than grey or red, green and blue.
    """
    chans = image.shape[2]
    if in_chans in (None, chans):
        return image
    if image.dtype == np.uint8 and chans in (1, 3) and in_chans in MODES:
        picture = Image.fromarray(image.squeeze(2) if chans == 1 else image)
        return np.array(picture.convert(MODES[in_chans])).reshape(*image.shape[:2], in_chans)
    if chans == 1 and in_chans == 3:
        return image.repeat(3, axis=2)
    raise ValueError(f"the image has {chans} channels of {image.dtype}, not in_chans={in_chans}")


def own_range(dtype: np.dtype) -> Range:
    """The stored values of a type that become 0 and 1 where no range is given."""
    if dtype == np.uint8:
        return 0.0, 255.0
    return (0.0, 65535.0) if dtype == np.uint16 else (0.0, 1.0)


@dataclass(frozen=True)
class Statistics:
    """Which values of floats are too far from a mean to be measured ones.

    Attributes:
        mean: Of each channel, or one value for all, on the scale of the pixels.
        std: The standard deviations, likewise.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def check(self, floats: Float32[np.ndarray, "h w c"]) -> None:
        """Check that no value is more than FAR deviations from the mean; NaN is missing, not far.

        Raises:
            ValueError: One is.
        """
        mean = np.array(self.mean, np.float32)
        std = np.array(self.std, np.float32)
        low, high = mean - FAR * std, mean + FAR * std
        far = (floats < low) | (floats > high)
        if far.any():
            i, value = int(far.nonzero()[2][0]), float(floats[far][0])
            raise ValueError(
                f"the value {value!r} of channel {i} is more than {FAR} standard deviations from"
                " the mean: if it marks pixels that were not measured, give"
                f" --data.nodata={value!r}"
            )


def to_floats(image: np.ndarray, config: StoredConfig) -> np.ndarray:
    """Scale stored values to float32, where NaN stands for values that are missing.

    The range that `config` gives, or else that of 8 or 16 bits, becomes 0 to 1. Without a range,
    floats and other integers stay as they are.

    Raises:
        ValueError: Some values are infinite, or too large for float32.
    """
    low, high = config.range or own_range(image.dtype)
    with np.errstate(over="ignore"):
        floats = image.astype(np.float32)
    if config.nodata is not None:
        floats[image == config.nodata] = np.nan
    if image.dtype.kind == "f" and (infinite := np.isinf(floats)).any():
        value = float(image[infinite][0])
        raise ValueError(
            f"some pixels are infinite in 32 bits, such as {value!r}: store NaN where nothing was"
            " measured, or give the value that marks it as --data.nodata"
        )
    if low:
        floats -= np.float32(low)
    if high - low != 1:
        floats /= np.float32(high - low)
    return floats.clip(0, 1, out=floats) if config.range else floats


def to_type(image: np.ndarray, config: PixelConfig) -> np.ndarray:
    """Convert stored values to the type that `config.pixels` names, on the scale of `to_floats`.

    Raises:
        ValueError: They are no real numbers, have no known range, or do not fit into 8 bits; or see
            `to_floats`.
    """
    kind = image.dtype
    if kind.kind not in "biuf":
        raise ValueError(
            f"{kind} values are no pixels: store whole or real numbers, of complex ones the"
            " magnitudes"
        )
    if kind == np.uint8 and config.range is not None and config.range[1] > 255:
        raise ValueError(
            f"the pixels have 8 bits, of which data.range {config.range[0]:g} {config.range[1]:g},"
            " meant for images of more, would leave dark ones: store all images alike"
        )
    known = kind in (np.uint8, np.uint16) or config.range is not None
    if not known and kind.kind != "f":
        raise ValueError(f"{kind} pixels have no known range: give data.range, such as 0 4095")
    if config.pixels == "float32":
        return to_floats(image, config)
    if config.range is None and config.nodata is None:
        if not known:
            raise ValueError(
                f"{kind} pixels do not fit into 8 bits: take data.pixels float32, or give"
                " data.range LO HI"
            )
        return image if kind == np.uint8 else (image >> 8).astype(np.uint8)
    floats = to_floats(image, config)
    if np.isnan(floats).any():
        raise ValueError("missing pixels do not fit into 8 bits: take data.pixels float32")
    return np.rint(floats * 255).astype(np.uint8)
