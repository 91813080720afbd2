"""Samples that cannot be read: each is named once and counted, and too many stop the run."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

LISTED = 20  # how many bad samples an error names


@dataclass(frozen=True)
class BadSample:
    """A sample that cannot be read. As text it is `SHARD: sample 'KEY': WHY`.

    Attributes:
        shard: The name of its shard, or the URL if several shards share the name.
        key: The key of the sample.
        why: The reason.
    """

    shard: str
    key: str
    why: str

    def __str__(self) -> str:
        return f"{self.shard}: sample {self.key!r}: {self.why}"


class BadSamples:
    """The bad samples that a run has met so far.

    Args:
        samples: The number of samples in all shards.
        max_fraction: The share of them that may be bad, from 0 to 1.

    Raises:
        ValueError: `max_fraction` is not from 0 to 1.
    """

    def __init__(self, samples: int, max_fraction: float) -> None:
        if not 0 <= max_fraction <= 1:
            raise ValueError(f"data.max_bad_fraction={max_fraction} must be a share, 0 to 1")
        self.samples = samples
        self.max_fraction = max_fraction
        self.met: dict[BadSample, None] = {}  # a set that keeps its order

    def __len__(self) -> int:
        return len(self.met)

    def new(self, samples: Iterable[BadSample]) -> list[BadSample]:
        """The samples that the run has not met before, each of them once."""
        return [sample for sample in dict.fromkeys(samples) if sample not in self.met]

    def add(self, samples: Iterable[BadSample]) -> list[BadSample]:
        """Add the bad samples of all processes, and return the new ones.

        Raises:
            ValueError: More than `max_fraction` of all samples are bad now.
        """
        new = self.new(samples)
        self.met |= dict.fromkeys(new)
        if len(self) > self.max_fraction * self.samples:
            names = "; ".join(map(str, list(self.met)[:LISTED]))
            more = f"; and {len(self) - LISTED} more" if len(self) > LISTED else ""
            raise ValueError(
                f"{len(self)} of {self.samples} samples are broken, more than the share"
                f" data.max_bad_fraction={self.max_fraction}; repair the shards or raise it:"
                f" {names}{more}"
            )
        return new

    def by_shard(self) -> dict[str, int]:
        """The number of bad samples in each shard, by its name."""
        return dict(Counter(sample.shard for sample in self.met))
