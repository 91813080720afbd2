"""Indexing shards that others made, and the statistics of their pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data.bad_samples import BadSample
from data.config import EIGHT_BITS, PixelConfig, StoredConfig
from data.decode import encoded_image, open_image
from data.making.measuring import Measure
from data.shards.index import Shard
from data.shards.moments import Moments
from data.shards.reading import LOCAL, check_shard, read_sample
from data.shards.scanning import Scanned, report, scan
from fcmae.run.terminal import say
from fcmae.run.waiting import counted


def index_shards(
    paths: Sequence[Path],
    listed: Mapping[Path, Shard],
    statistics: bool,
    in_chans: int | None,
    image: str = "",
    config: StoredConfig = EIGHT_BITS,
) -> tuple[list[Shard], list[str]]:
    """Scan shards for an index. An unchanged shard keeps the statistics that its index has.

    Args:
        paths: Uncompressed tars, or .tar.gz that are in `listed`.
        listed: The shards that an index lists already, by path.
        statistics: Whether every image is decoded to compute the statistics again.
        in_chans: The number of channels of the statistics; None for that of the first image.
        image: The suffix of the images; "" for any of IMAGE_SUFFIXES.
        config: The range, missing value and background that are measured with.

    Returns:
        The shards, and what is to be said of those that were scanned, as lines.

    Raises:
        OSError: A shard cannot be read.
        ValueError: A shard is damaged or is no shard, see `data.shards.scanning.scan`; or none of
            its images can be decoded.
    """
    shards: list[Shard] = []
    scans: list[Scanned] = []
    for path in counted(paths, "scanning shards", len(paths), "shards"):
        known = listed.get(path)
        if known is not None and path.suffix == ".gz":
            shard = check_shard(known, True, LOCAL)
        else:
            with path.open("rb") as file:
                scans.append(scan(file, str(path), image))
            shard = scans[-1].shard
        if known is not None and known.sha256 == shard.sha256:
            shard = replace(shard, moments=known.moments)
        if statistics:
            moments = moments_of(shard, in_chans, image, config)
            shard = replace(shard, moments=moments)
            in_chans = in_chans or len(moments.sums)
        shards.append(shard)
    return shards, report(scans) if scans else []


def moments_of(
    shard: Shard, in_chans: int | None, image: str = "", config: StoredConfig = EIGHT_BITS
) -> Moments:
    """The moments of all images of a shard. Broken ones are left out, and named on standard error.

    Args:
        shard: A shard on this machine.
        in_chans: The number of channels to decode; None for that of the first image.
        image: The suffix of the images; "" for any of IMAGE_SUFFIXES.
        config: See `index_shards`.

    Raises:
        ValueError: None of the images can be decoded.
    """
    measure = Measure(config)
    opening = PixelConfig(pixels="float32", background=config.background)
    first: BadSample | None = None
    for i in counted(range(shard.samples), "measuring images", shard.samples, "images"):
        members = read_sample(shard, i)
        try:
            encoded, suffix = encoded_image(members, image)
            stored = open_image(encoded, suffix, in_chans, opening).whole()
            measure.add(stored)
        except ValueError as error:
            bad = BadSample(shard.url, i, str(members["__key__"]), str(error))
            first = first or bad
            say(f"left out of the statistics: {bad}", error=True)
            continue
        in_chans = stored.shape[2]
    if not measure.parts:
        raise ValueError(
            f"none of the {shard.samples} samples of {shard.url} can be decoded ({first})"
        )
    return measure.moments()
