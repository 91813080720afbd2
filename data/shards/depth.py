"""How much of their depth images use: the extent of stored values that have more than 8 bits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

OUTER = 0.001  # share of the values that lie below `inner`, and beyond it
BINS = 2**16  # the upper half of a float32: sign, exponent and 7 bits, or steps of 0.8 %
ODD = 10.0  # values beyond this are on no scale that a mean of photographs fits
# what maps and rasters store where nothing was measured, if it is the smallest value
NODATA = (-999.0, -9999.0, -32767.0, -32768.0, -99999.0, float(np.finfo(np.float32).min))
FEW = 2**15  # of 16-bit values: their upper 8 bits are fewer than 128 levels


@dataclass(frozen=True)
class Depth:
    """What values are stored, over all channels.

    Attributes:
        types: The types of the arrays, such as uint16, sorted.
        low: The smallest value.
        high: The largest value.
        inner: Roughly the values that a thousandth lies below, and above.
    """

    types: tuple[str, ...]
    low: float
    high: float
    inner: tuple[float, float]

    @classmethod
    def merge(cls, parts: "Sequence[Depth]") -> "Depth":
        """The depth of all parts together, whose values are taken to be alike."""
        below, above = (sum(part.inner[i] for part in parts) / len(parts) for i in (0, 1))
        return cls(
            tuple(sorted({kind for part in parts for kind in part.types})),
            min(part.low for part in parts),
            max(part.high for part in parts),
            (below, above),
        )

    def suggested(self) -> tuple[float, float]:
        """The range to train with: without outliers; of unsigned values, from 0 and to all bits."""
        below, above = self.inner
        if above - below < (self.high - self.low) / 2:
            return below, above
        if self.low >= 0 and self.low < self.high / 8 and self.types == ("uint16",):
            return 0.0, float(2 ** int(self.high).bit_length() - 1)
        return self.low, self.high

    def advice(self) -> str:
        """A sentence about the flags that such images need in training; "" if they need none."""
        if self.low in NODATA:
            return (
                f"the smallest value is {self.low:g}: if it means that nothing was measured, make"
                f" the shards with --nodata={self.low!r} and train with --data.pixels float32"
                f" --data.nodata={self.low!r}"
            )
        low, high = self.suggested()
        flags = f"--data.range {low:g} {high:g}"
        if all(kind.startswith("float") for kind in self.types):
            usual = -ODD <= self.low <= self.high <= ODD
            flags = "--data.pixels float32" + ("" if usual else f" {flags}")
        elif self.types == ("uint16",) and self.high - self.low >= FEW:
            return ""
        kinds = " and ".join(self.types).replace("uint16", "16-bit")
        extent = f"{self.low:g} to {self.high:g}"
        if (low, high) == self.inner:
            extent += f", all but a thousandth on each side {low:g} to {high:g}"
        return f"{kinds} images use {extent}: train with {flags}"


class DepthMeter:
    """Measures the depth of the images that it is given; those of 8 bits have none to measure."""

    def __init__(self) -> None:
        self.types: set[str] = set()
        self.low = np.inf
        self.high = -np.inf
        self.counts = np.zeros(BINS, np.int64)

    def add(self, stored: Shaped[np.ndarray, "h w c"], nodata: float | None) -> None:
        """Take one image, without NaN and the value that says that nothing was measured."""
        if stored.dtype == np.uint8:
            return
        values = stored[stored != nodata] if nodata is not None else stored.ravel()
        values = values.astype(np.float32)
        values = values[np.isfinite(values)]
        if not len(values):
            return
        self.types.add(stored.dtype.name)
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        self.counts += np.bincount(ordered(values), minlength=BINS)

    def depth(self) -> Depth | None:
        """The depth of all images so far; None if they have 8 bits."""
        if not self.types:
            return None
        shares = self.counts.cumsum() / self.counts.sum()
        places = np.searchsorted(shares, [OUTER, 1 - OUTER])
        below, above = edges(places).clip(self.low, self.high).tolist()
        return Depth(tuple(sorted(self.types)), self.low, self.high, (below, above))


def ordered(values: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, " n"]:
    """The upper 16 bits of float32 values as integers in the order of the values."""
    upper = (values.view(np.uint32) >> 16).astype(np.int64)
    negative = upper >= BINS // 2
    return np.where(negative, BINS - 1 - upper, upper + BINS // 2)


def edges(places: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, " n"]:
    """The values that stand for what `ordered` gives: of their bins, the end next to zero."""
    negative = places < BINS // 2
    upper = np.where(negative, BINS - 1 - places, places - BINS // 2)
    return (upper.astype(np.uint32) << 16).view(np.float32)
