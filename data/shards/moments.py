"""The mean and standard deviation of pixels, kept as sums that add up over images and shards."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from data.shards.depth import Depth
from fcmae.run.json_files import as_dataclass, as_object, field_of

ROUNDED = 1e-3  # of a sum; far more than rounding leaves
Range = tuple[float, float]
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Moments:
    """The number of pixels, the sum and the sum of squares of each channel, and their scale.

    Attributes:
        counts: The pixels of each channel that are not missing.
        sums: On the scale on which pixels were measured, which for 8 and 16 bits is 0 to 1.
        squares: Likewise.
        own: The stored values that are 0 and 1 on it by the type of the images; None if their types
            differ, or an earlier version measured them.
        range: The stored values that became 0 and 1 because a range was given; None without one.
        nodata: The stored value that was left out; None without one.
        depth: What values are stored; None for 8 bits, or if it was not measured.
    """

    counts: tuple[int, ...]
    sums: tuple[float, ...]
    squares: tuple[float, ...]
    own: Range | None = None
    range: Range | None = None
    nodata: float | None = None
    depth: Depth | None = None

    @classmethod
    def of(cls, image: Float32[np.ndarray, "c h w"], own: Range | None = None) -> "Moments":
        """The moments of one image, NaN left out, with the same bits for any number of threads.

        numpy sums in a single thread, while torch divides a sum among its threads, and rounds
        differently for each number of them.
        """
        pixels = image.reshape(len(image), -1).astype(np.float64)
        counts = [pixels.shape[1]] * len(pixels)
        sums, squares = power_sums(pixels)
        if np.isnan(sums).any():
            counts = (~np.isnan(pixels)).sum(1).tolist()
            sums, squares = power_sums(np.nan_to_num(pixels, nan=0.0))
        return cls(tuple(counts), tuple(sums.tolist()), tuple(squares.tolist()), own)

    @classmethod
    def from_entry(cls, entry: object) -> "Moments":
        """Read the moments of a shard from its entry in index.json, which may be an older one.

        Raises:
            ValueError: A field is missing, or is none that `to_entry` gives.
        """
        fields = as_object(entry)
        sums, squares = (field_of(fields, name, Numbers) for name in ("sums", "squares"))
        count = field_of(fields, "count", int | tuple[int, ...])
        counts = count if isinstance(count, tuple) else (count,) * len(sums)
        if not len(sums) == len(squares) == len(counts) > 0 or min(*counts, *squares) < 0:
            raise ValueError("its moments have no count, sum and square for each channel")
        for n, total, square in zip(counts, sums, squares, strict=True):
            if abs(total) > math.sqrt(n) * math.sqrt(square) * (1 + ROUNDED):  # Cauchy and Schwarz
                raise ValueError(f"no {n} pixels have the sum {total} and the squares {square}")
        own, given = (field_of(fields, name, Range | None) for name in ("own", "range"))
        for low, high in (own or (0, 1), given or (0, 1)):
            if low >= high:
                raise ValueError(f"its range from {low} to {high} does not go up")
        nodata = field_of(fields, "nodata", float | None)
        depth = None if fields.get("depth") is None else as_dataclass(Depth, fields["depth"])
        if depth is not None and not all(map(str.isidentifier, depth.types)):
            raise ValueError("its depth has types that are none of arrays")
        return cls(
            counts,
            sums,
            squares,
            own,
            given,
            nodata,
            depth,
        )

    def to_entry(self) -> dict[str, Any]:
        """Turn the moments into an entry of index.json, as the inverse of `from_entry`."""
        entry = {name: value for name, value in asdict(self).items() if value is not None}
        counts = entry.pop("counts")
        return {"count": counts[0] if len(set(counts)) == 1 else counts} | entry

    @classmethod
    def merge(cls, parts: Sequence["Moments"]) -> "Moments":
        """The moments of all parts together, which must have the same number of channels.

        Raises:
            ValueError: They were measured with different ranges or values of nodata.
        """
        first = parts[0]
        if any((part.range, part.nodata) != (first.range, first.nodata) for part in parts):
            raise ValueError(
                "the shards were measured with different --range or --nodata: measure all with"
                " fcmae shards index --statistics"
            )
        depths = [part.depth for part in parts if part.depth is not None]
        counts, sums, squares = (
            tuple(map(sum, zip(*(getattr(part, name) for part in parts), strict=True)))
            for name in ("counts", "sums", "squares")
        )
        return cls(
            counts,
            sums,
            squares,
            first.own if all(part.own == first.own for part in parts) else None,
            first.range,
            first.nodata,
            Depth.merge(depths) if depths else None,
        )

    def mean(self) -> tuple[float, ...]:
        """The mean of each channel over all pixels; 0 for a channel without pixels."""
        pairs = zip(self.sums, self.counts, strict=True)
        return tuple(total / max(1, count) for total, count in pairs)

    def std(self) -> tuple[float, ...]:
        """The standard deviation of each channel over all pixels, on the scale of the mean."""
        triples = zip(self.squares, self.counts, self.mean(), strict=True)
        return tuple(
            math.sqrt(max(0.0, square / max(1, count) - mean**2)) for square, count, mean in triples
        )


def power_sums(
    pixels: Float64[np.ndarray, "c n"],
) -> tuple[Float64[np.ndarray, " c"], Float64[np.ndarray, " c"]]:
    """The sum and the sum of squares of each channel, where pixels are float32 in their values."""
    if pixels.flags.c_contiguous:
        return pixels.sum(1), np.square(pixels).sum(1)
    # Of interleaved channels, as images have them, sum() adds one pixel after the other, too, but
    # takes three to six times as long. Squares of float32 are exact here, fused or not.
    return np.einsum("cn->c", pixels), np.einsum("cn,cn->c", pixels, pixels)
