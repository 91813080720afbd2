"""`python -m data.shards index SHARDS` and `python -m data.shards verify SHARDS`."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from braceexpand import braceexpand
from tqdm import tqdm

from data.bad_samples import BadSample
from data.decode import decode, image_suffix
from data.making.verify import verify
from data.making.workers import cores
from data.shards.index import Shard, index_shard, read_index, statistics, write_index
from data.shards.moments import Moments
from data.shards.reading import LOCAL, check_file, check_shard, read_sample
from data.shards.sources import is_remote


@dataclass(frozen=True, kw_only=True)
class Index:
    """Write the index.json beside shards, made by anyone."""

    shards: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SHARDS")]
    """Paths or brace patterns. Uncompressed tars, or .tar.gz that an index lists already."""
    statistics: bool = False
    """Decode every image, and keep mean and standard deviation of each channel."""
    in_chans: int | None = None
    """Channels to take them in; by default those of the first image."""


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Read all of the shards: tars, members, images, the index. Fails if anything is wrong."""

    shards: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SHARDS")]
    """Paths or brace patterns."""
    workers: int = cores()
    """Processes."""


def moments_of(shard: Shard, in_chans: int | None) -> Moments:
    """Decode the images of a shard, and name those that cannot be on standard error.

    Raises:
        ValueError: none of them can be decoded.
    """
    parts: list[Moments] = []
    for i in range(shard.samples):
        members = read_sample(shard, i)
        suffix = image_suffix(members)
        try:
            if suffix is None:
                raise ValueError("no image")
            content = members[suffix]
            assert isinstance(content, bytes)
            image = decode(content, suffix, in_chans, "float32")
        except ValueError as error:
            bad = BadSample(shard.url, str(members["__key__"]), str(error))
            tqdm.write(f"left out of the statistics: {bad}", file=sys.stderr)
            continue
        in_chans = image.shape[0]
        parts.append(Moments.of(image))
    if not parts:
        raise ValueError(f"none of the {shard.samples} samples of {shard.url} can be decoded")
    return Moments.merge(parts)


def main(args: Index | Verify) -> None:
    """Index or verify shards.

    Raises:
        OSError, ValueError: shards or their index cannot be used.
        SystemExit: shards were verified; its status is 1 if some are bad.
    """
    urls = [url for pattern in args.shards for url in braceexpand(pattern)]
    if any(is_remote(url) for url in urls):
        raise ValueError(
            "shards are indexed and verified where they lie on a disk: copy them first"
        )
    for url in urls:
        check_file(Path(url), args.shards)
    indexes = [read_index(directory) for directory in {str(Path(url).parent) for url in urls}]
    listed = {str(Path(shard.url)): shard for index in indexes for shard in index.values()}
    if isinstance(args, Verify):
        samples, faults = verify([Path(url) for url in urls], listed, args.workers)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(faults.items()))
        print(f"{samples} samples in {len(urls)} shards: {counts or 'all is well'}")
        sys.exit(1 if faults else 0)
    shards, in_chans = [], args.in_chans
    for url in tqdm(urls, desc="indexing", unit="shard", disable=None):
        known = listed.get(str(Path(url)))
        compressed = known is not None and url.endswith(".gz")
        shard = check_shard(known, True, LOCAL) if known and compressed else index_shard(Path(url))
        if known and known.sha256 == shard.sha256:  # its images are those of the statistics
            shard = replace(shard, moments=known.moments)
        if args.statistics:
            moments = moments_of(shard, in_chans)
            in_chans = in_chans or len(moments.sums)  # all shards in the channels of the first
            shard = replace(shard, moments=moments)
        shards.append(shard)
    write_index(shards)
    for shard in shards:
        print(f"{shard.url}: {shard.samples} samples, {shard.size} bytes")
    if args.statistics:
        mean, std = statistics(shards)
        print(f"mean {' '.join(f'{x:.4f}' for x in mean)}  std {' '.join(f'{x:.4f}' for x in std)}")


def run() -> None:
    """Parse the command line; end with one line on what a user can cause."""
    try:
        main(tyro.extras.subcommand_cli_from_dict({"index": Index, "verify": Verify}))
    except (OSError, ValueError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    run()
