"""The samples of several shards, by number: their shard, their name and their members."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from data.bad_samples import BadSample
from data.config import SourceConfig
from data.formats.damaged import one_line
from data.shards.addresses import directory_of
from data.shards.index import Shard
from data.shards.reading import LOCAL, read_sample

DIGITS = 20  # of a class that are read: there are not as many classes


class ShardSamples:
    """The samples of shards, not decoded, with numbers that run through all shards.

    Args:
        shards: The shards, in the order in which their samples are numbered.
        source: How remote shards are read.
        numbers: For directories whose classes are to get other numbers, those of their classes 0, 1
            and so on.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        source: SourceConfig = LOCAL,
        numbers: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.shards = shards
        self.source = source
        self.numbers = numbers or {}
        self.ends = list(accumulate(shard.samples for shard in shards))
        self.names = Counter(shard.name for shard in shards)

    def __len__(self) -> int:
        return self.ends[-1]

    def locate(self, sample: int) -> tuple[Shard, int]:
        """Find the shard that holds a sample, and the number of the sample within that shard."""
        number = bisect_right(self.ends, sample)
        shard = self.shards[number]
        return shard, sample - self.ends[number] + shard.samples

    def members(self, sample: int) -> dict[str, str | bytes]:
        """Read the members of a sample by suffix, not decoded, and its key as `__key__`.

        Raises:
            OSError, ValueError: See `data.shards.reading.read_sample`.
            ValueError: The class has no place among those that are to get other numbers.
        """
        shard, i = self.locate(sample)
        members = read_sample(shard, i, self.source)
        if not self.numbers:
            return members
        numbers = self.numbers.get(directory_of(shard.url))
        label = members.get("cls", b"")
        if numbers is not None and label.strip().isdigit():
            number = int(label.strip()[:DIGITS])
            if number >= len(numbers):
                raise ValueError(
                    f"{shard.url}: sample {members['__key__']!r} is of class {number}, but"
                    f" classes.json beside it names {len(numbers)} classes"
                )
            members["cls"] = str(numbers[number]).encode()
        return members

    def name(self, sample: int) -> str:
        """Describe a sample as `URL: sample 'KEY'`, which reads the sample."""
        shard, _ = self.locate(sample)
        return f"{shard.url}: sample {self.members(sample)['__key__']!r}"

    def bad(self, sample: int, key: str, why: ValueError) -> BadSample:
        """Record that the sample with this number and key cannot be used, and why, in one line."""
        shard, i = self.locate(sample)
        # shards in different directories may share a name: their samples must not look the same
        named = shard.name if self.names[shard.name] == 1 else shard.url
        return BadSample(named, i, key, one_line(str(why)))

    def from_here_on(self, sample: int) -> Iterator[int]:
        """Yield all samples of a sample's shard: itself, the later ones, then the earlier ones."""
        shard, i = self.locate(sample)
        first = sample - i
        return (first + (i + k) % shard.samples for k in range(shard.samples))
