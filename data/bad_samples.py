"""Samples that cannot be read: counted for each shard, named once, too many stop the run."""

from collections import Counter
from collections.abc import Iterable

LISTED = 20  # broken samples that an error names


class BrokenSamples:
    """The broken samples that a run has met so far.

    Args:
        samples: in all shards.
        max_fraction: share of them that may be broken.

    Raises:
        ValueError: `max_fraction` is no share.
    """

    def __init__(self, samples: int, max_fraction: float) -> None:
        if not 0 <= max_fraction <= 1:
            raise ValueError(f"data.max_bad_fraction={max_fraction} must be a share, 0 to 1")
        self.samples, self.max_fraction = samples, max_fraction
        self.met: dict[str, None] = {}  # messages, in the order of their coming

    def new(self, items: Iterable[str]) -> list[str]:
        """The messages in the `broken` lines of items that were not met before, each once."""
        lines = dict.fromkeys(line for item in items for line in item.splitlines())
        return [line for line in lines if line not in self.met]

    def add(self, messages: Iterable[str]) -> list[str]:
        """Take the messages of all processes in, and return those that are new.

        Raises:
            ValueError: more than the share are broken now.
        """
        new = self.new(messages)
        self.met |= dict.fromkeys(new)
        if len(self.met) > self.max_fraction * self.samples:
            names = "; ".join(list(self.met)[:LISTED])
            more = f"; and {len(self.met) - LISTED} more" if len(self.met) > LISTED else ""
            raise ValueError(
                f"{len(self.met)} of {self.samples} samples are broken, more than the share"
                f" data.max_bad_fraction={self.max_fraction}; repair the shards or raise it:"
                f" {names}{more}"
            )
        return new

    def by_shard(self) -> dict[str, int]:
        """How many in each shard."""
        return dict(Counter(message.partition(": sample ")[0] for message in self.met))
