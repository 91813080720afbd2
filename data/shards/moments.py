"""Mean and standard deviation of pixels, as sums that add up over images and shards."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True)
class Moments:
    """Number of pixels, and each channel's sum and sum of squares, on the scale 0 to 1."""

    count: int
    sums: tuple[float, ...]
    squares: tuple[float, ...]

    @classmethod
    def of(cls, image: Float32[np.ndarray, "c h w"]) -> "Moments":
        """Those of one image, to the last bit the same for any number of threads.

        numpy's sum is one thread's; torch divides it among those it has, and so rounds otherwise.
        """
        pixels = image.reshape(len(image), -1).astype(np.float64)
        sums = pixels.sum(1).tolist()
        squares = np.square(pixels).sum(1).tolist()
        return cls(pixels.shape[1], tuple(sums), tuple(squares))

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> "Moments":
        """What index.json keeps of a shard's moments."""
        return cls(int(entry["count"]), tuple(entry["sums"]), tuple(entry["squares"]))

    @classmethod
    def merge(cls, parts: Sequence["Moments"]) -> "Moments":
        """Those of all parts together, which must have as many channels."""
        sums, squares = (
            tuple(sum(column) for column in zip(*rows, strict=True))
            for rows in ((part.sums for part in parts), (part.squares for part in parts))
        )
        return cls(sum(part.count for part in parts), sums, squares)

    def mean(self) -> tuple[float, ...]:
        """The mean of each channel."""
        return tuple(total / self.count for total in self.sums)

    def std(self) -> tuple[float, ...]:
        """The standard deviation of each channel, over all pixels."""
        pairs = zip(self.squares, self.mean(), strict=True)
        return tuple(math.sqrt(max(0.0, square / self.count - mean**2)) for square, mean in pairs)
