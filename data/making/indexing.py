"""Shards that were made elsewhere get an index, and the statistics of their pixels."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from data.bad_samples import BadSample
from data.decode import decode, image_suffix
from data.shards.index import Shard, index_shard
from data.shards.moments import Moments
from data.shards.reading import LOCAL, check_shard, read_sample


def index_shards(
    paths: Sequence[Path], listed: Mapping[Path, Shard], statistics: bool, in_chans: int | None
) -> list[Shard]:
    """Scan the shards, whose images keep the statistics that an index has of them.

    Args:
        paths: uncompressed tars, or .tar.gz that are listed.
        listed: the shards that an index knows, by path.
        statistics: whether every image is decoded and the statistics are taken anew.
        in_chans: channels to take them in; None for those of the first image.

    Raises:
        OSError: a shard cannot be read.
        ValueError: a shard is damaged; none of its images can be decoded.
    """
    shards = []
    for path in tqdm(paths, desc="indexing", unit="shard", disable=None):
        known = listed.get(path)
        if known is not None and path.suffix == ".gz":
            shard = check_shard(known, True, LOCAL)
        else:
            shard = index_shard(path)
        if known is not None and known.sha256 == shard.sha256:
            shard = replace(shard, moments=known.moments)
        if statistics:
            moments = moments_of(shard, in_chans)
            shard = replace(shard, moments=moments)
            in_chans = in_chans or len(moments.sums)
        shards.append(shard)
    return shards


def moments_of(shard: Shard, in_chans: int | None) -> Moments:
    """Decode the images of a shard, and name those that cannot be on standard error.

    Args:
        shard: on this machine.
        in_chans: channels to decode them in; None for those of the first image.

    Raises:
        ValueError: none of the images can be decoded.
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
        parts.append(Moments.of(image.numpy()))
    if not parts:
        raise ValueError(f"none of the {shard.samples} samples of {shard.url} can be decoded")
    return Moments.merge(parts)
