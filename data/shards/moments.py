"""The mean and standard deviation of pixels, kept as sums that add up over images and shards."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True)
class Moments:
    """The number of pixels, and the sum and sum of squares of each channel, on the scale 0 to 1."""

    count: int
    sums: tuple[float, ...]
    squares: tuple[float, ...]

    @classmethod
    def of(cls, image: Float32[np.ndarray, "c h w"]) -> "Moments":
        """The moments of one image, with the same bits for any number of threads.

        numpy sums in a single thread, while torch divides a sum among its threads, and rounds
        differently for each number of them.
        """
        pixels = image.reshape(len(image), -1).astype(np.float64)
        sums = pixels.sum(1).tolist()
        squares = np.square(pixels).sum(1).tolist()
        return cls(pixels.shape[1], tuple(sums), tuple(squares))

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> "Moments":
        """Read the moments of a shard from its entry in index.json."""
        return cls(int(entry["count"]), tuple(entry["sums"]), tuple(entry["squares"]))

    @classmethod
    def merge(cls, parts: Sequence["Moments"]) -> "Moments":
        """The moments of all parts together, which must have the same number of channels."""
        count = sum(part.count for part in parts)
        sums = zip(*(part.sums for part in parts), strict=True)
        squares = zip(*(part.squares for part in parts), strict=True)
        return cls(count, tuple(map(sum, sums)), tuple(map(sum, squares)))

    def mean(self) -> tuple[float, ...]:
        """The mean of each channel over all pixels, from 0 to 1."""
        return tuple(total / self.count for total in self.sums)

    def std(self) -> tuple[float, ...]:
        """The standard deviation of each channel over all pixels, on the scale 0 to 1."""
        pairs = zip(self.squares, self.mean(), strict=True)
        return tuple(math.sqrt(max(0.0, square / self.count - mean**2)) for square, mean in pairs)
