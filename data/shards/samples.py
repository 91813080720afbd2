"""The samples of opened shards, by their numbers: which shard has one, its name, its members."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

from data.bad_samples import BadSample
from data.config import SourceConfig
from data.shards.index import Shard
from data.shards.reading import LOCAL, read_sample


class ShardSamples:
    """Samples as shards hold them, undecoded, numbered through all of the shards.

    Args:
        shards: in the order in which their samples are numbered.
        source: how remote shards are read.
    """

    def __init__(self, shards: Sequence[Shard], source: SourceConfig = LOCAL) -> None:
        self.shards = shards
        self.source = source
        self.ends = list(accumulate(shard.samples for shard in shards))
        self.names = Counter(shard.name for shard in shards)

    def __len__(self) -> int:
        return self.ends[-1]

    def locate(self, sample: int) -> tuple[Shard, int]:
        """The shard of a sample, and the sample's number therein."""
        number = bisect_right(self.ends, sample)
        shard = self.shards[number]
        return shard, sample - self.ends[number] + shard.samples

    def members(self, sample: int) -> dict[str, str | bytes]:
        """The undecoded members by their suffix, and the key as `__key__`.

        Raises:
            OSError, ValueError: see `data.shards.reading.read_sample`.
        """
        shard, i = self.locate(sample)
        return read_sample(shard, i, self.source)

    def name(self, sample: int) -> str:
        """`URL: sample 'KEY'`, for which the sample is read."""
        shard, _ = self.locate(sample)
        return f"{shard.url}: sample {self.members(sample)['__key__']!r}"

    def bad(self, sample: int, key: str, why: ValueError) -> BadSample:
        """The record of a sample of this key that cannot be used."""
        shard, _ = self.locate(sample)
        # shards of one name lie in several directories: their samples are not to be taken for one
        named = shard.name if self.names[shard.name] == 1 else shard.url
        return BadSample(named, key, str(why))

    def from_here_on(self, sample: int) -> Iterator[int]:
        """All samples of the shard of a sample: it, those after it, then those before it."""
        shard, i = self.locate(sample)
        first = sample - i
        return (first + (i + k) % shard.samples for k in range(shard.samples))
