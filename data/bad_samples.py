"""Samples that cannot be read: each is named once and counted, and too many stop the run."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

LISTED = 20  # how many bad samples an error names


@dataclass(frozen=True)
class BadSample:
    """A sample that cannot be read. As text it is `SHARD: sample 'KEY': WHY`.

    Two are equal if they are the same sample: keys may come twice, and reasons differ by crop.

    Attributes:
        shard: The name of its shard, or the URL if several shards share the name.
        number: The place of the sample in its shard.
        key: The key of the sample.
        why: The reason; "" if an earlier start of the run met it, and did not keep its name.
    """

    shard: str
    number: int
    key: str = field(compare=False)
    why: str = field(compare=False)

    def __str__(self) -> str:
        if not self.why:
            return f"{self.shard}: sample number {self.number}, met before"
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

    def state(self) -> dict[str, Any]:
        """All that `restore` needs: numbers by shard, and the first LISTED with name and reason."""
        numbers: dict[str, list[int]] = {}
        for sample in self.met:
            numbers.setdefault(sample.shard, []).append(sample.number)
        return {
            "named": [astuple(sample) for sample in list(self.met)[:LISTED]],
            "numbers": numbers,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take in the bad samples that an earlier start has met; an empty state has none."""
        named = [BadSample(*sample) for sample in state.get("named", ())]
        numbers = state.get("numbers", {})
        others = [BadSample(shard, i, "", "") for shard, many in numbers.items() for i in many]
        self.met |= dict.fromkeys(self.new([*named, *others]))

    def by_shard(self) -> dict[str, int]:
        """The number of bad samples in each shard, by its name."""
        return dict(Counter(sample.shard for sample in self.met))
