"""Samples that cannot be read: counted for each shard, named once, too many stop the run."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

LISTED = 20  # bad samples that an error names


@dataclass(frozen=True)
class BadSample:
    """A sample that cannot be read, and why: `SHARD: sample 'KEY': WHY` as text.

    `shard` is the name of its shard, or the URL where several shards have the name.
    """

    shard: str
    key: str
    why: str

    def __str__(self) -> str:
        return f"{self.shard}: sample {self.key!r}: {self.why}"


class BadSamples:
    """The bad samples that a run has met so far.

    Args:
        samples: in all shards.
        max_fraction: share of them that may be bad.

    Raises:
        ValueError: `max_fraction` is no share.
    """

    def __init__(self, samples: int, max_fraction: float) -> None:
        if not 0 <= max_fraction <= 1:
            raise ValueError(f"data.max_bad_fraction={max_fraction} must be a share, 0 to 1")
        self.samples, self.max_fraction = samples, max_fraction
        self.met: dict[BadSample, None] = {}  # in the order of their coming

    def __len__(self) -> int:
        return len(self.met)

    def new(self, found: Iterable[BadSample]) -> list[BadSample]:
        """Those of `found` that were not met before, each once."""
        return [sample for sample in dict.fromkeys(found) if sample not in self.met]

    def add(self, found: Iterable[BadSample]) -> list[BadSample]:
        """Take what all processes found in, and return what is new.

        Raises:
            ValueError: more than the share are bad now.
        """
        new = self.new(found)
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
        """How many in each shard, by its name."""
        return dict(Counter(sample.shard for sample in self.met))
