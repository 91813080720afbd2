"""What is printed of shards that were made: how many images, and the flags that name the shards."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.making.walking import described
from data.shards.index import Shard, statistics
from fcmae.run.terminal import say


def report(
    shards: Mapping[str, Sequence[Shard]], skipped: Counter[tuple[str, str]], directory: Path
) -> None:
    """Print what was written, what was not, and the flags that name the shards.

    Args:
        shards: What was written, by prefix.
        skipped: How many files were not, by suffix and reason.
        directory: Where the shards are.
    """
    every = [shard for part in shards.values() for shard in part]
    say(
        f"{sum(shard.samples for shard in every)} images in {len(every)} shards,"
        f" {skipped.total()} skipped: {directory}"
    )
    for line in described(skipped):
        say(f"  {line}")
    report_parts(shards)


def report_parts(shards: Mapping[str, Sequence[Shard]]) -> None:
    """Print the flags that name the shards of each prefix, and the statistics of the first."""
    for prefix, part in shards.items():
        side = "test" if prefix in ("val", "test") else "train"
        images = sum(shard.samples for shard in part)
        say(f"  {prefix}: {images} images, --data.{side} {pattern_of(part)}")
    mean, std = statistics(next(iter(shards.values())))
    say(f"mean {' '.join(f'{x:.4f}' for x in mean)}  std {' '.join(f'{x:.4f}' for x in std)}")


def pattern_of(shards: Sequence[Shard]) -> str:
    """The pattern that names these shards, whose numbers run from 0 on, quoted for a shell."""
    first, _, suffix = shards[0].url.rpartition("000000")
    every = f"{{000000..{len(shards) - 1:06d}}}" if len(shards) > 1 else "000000"
    return shlex.quote(f"{first}{every}{suffix}")
