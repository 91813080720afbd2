"""`python -m data.shards index SHARDS` and `python -m data.shards verify SHARDS`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from data.config import StoredConfig
from fcmae.run.program import run_program
from fcmae.run.ranges import Extent, WorkersFrom1, checked
from fcmae.run.terminal import say
from fcmae.run.threads import cores
from fcmae.run.waiting import waiting


@dataclass(frozen=True, kw_only=True)
class Index(StoredConfig):
    """Write an index.json beside shards, whoever made them."""

    shards: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SHARDS")]
    """Paths or patterns of uncompressed tars, or of .tar.gz that an index lists already."""
    statistics: bool = False
    """Decode every image, and keep the mean and standard deviation of each channel."""
    in_chans: Extent | None = None
    """Number of channels for --statistics. By default, as many as the first image has."""
    image: str = ""
    """Suffix of the members that are the images, such as input.jpg of 000.input.jpg. By default,
    any known one."""


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Read everything in the shards (tars, members, images) and fail if anything is wrong."""

    shards: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SHARDS")]
    """Paths or patterns of shards, like 'DIR/train-{000000..000003}.tar' or 'DIR/*.tar'."""
    image: str = ""
    """Suffix of the members that are the images; by default, any known one."""
    workers: WorkersFrom1 = field(default_factory=cores)
    """Number of processes that read the shards."""


def main(argv: Sequence[str]) -> None:
    """Index or verify shards, and exit with status 1 if `verify` finds a fault.

    Raises:
        OSError: A shard cannot be read, or the index cannot be written.
        ValueError: A shard is remote or damaged, or none of its images can be decoded.
    """
    config = checked(
        tyro.extras.subcommand_cli_from_dict(
            {"index": Index, "verify": Verify}, prog="fcmae shards", args=list(argv)
        )
    )
    # here: the images are decoded with torch, which the help text does without
    with waiting("importing PyTorch"):
        from data.making.indexing import index_shards
        from data.making.verify import verify
        from data.shards.addresses import is_remote
        from data.shards.index import read_index, statistics, write_index
        from data.shards.patterns import expand

    urls = expand(config.shards)
    if any(is_remote(url) for url in urls):
        raise ValueError(
            "shards are indexed and verified where they lie on a disk: copy them first"
        )
    paths = [Path(url) for url in urls]
    indexes = [read_index(directory) for directory in {str(path.parent) for path in paths}]
    listed = {Path(shard.url): shard for index in indexes for shard in index.values()}
    if isinstance(config, Verify):
        samples, faults = verify(paths, listed, config.workers, config.image)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(faults.items()))
        say(f"{samples} samples in {len(paths)} shards: {counts or 'all is well'}")
        sys.exit(1 if faults else 0)
    shards, said = index_shards(
        paths, listed, config.statistics, config.in_chans, config.image, config
    )
    write_index(shards)
    for shard in shards:
        say(f"{shard.url}: {shard.samples} samples, {shard.size} bytes")
    say(*said)
    if config.statistics:
        mean, std = statistics(shards)
        say(f"mean {' '.join(f'{x:.4f}' for x in mean)}  std {' '.join(f'{x:.4f}' for x in std)}")


if __name__ == "__main__":
    run_program(main)
