"""What images are like, as far as a recipe depends on it."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

from data.config import MEASURED, StoredConfig
from data.decode import encoded_image, open_image
from data.making.entries import Entry
from data.making.listing import find_entries
from data.making.measuring import Measure
from data.making.tables.arrow import unpack
from data.shards.depth import NODATA, Depth
from data.shards.index import Shard
from data.shards.reading import open_shards, read_sample
from fcmae.run.waiting import counted

LOOKED_AT = 200  # images, evenly spread
Item = TypeVar("Item")
Reader = Callable[[], tuple[bytes, str]]  # the bytes of an image, and the suffix of its name


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What images are like: their number, and what was measured on a sample of them.

    Attributes:
        count: The number of all images.
        short_side: Median of the shorter sides, in pixels.
        long_side: Median of the longer sides, in pixels.
        channels: The number of channels that most of them have.
        depth: What values are stored; None for 8 bits.
        nodata: The stored value where nothing was measured; None without one.
        range: The stored values that become 0 and 1; None for the whole range of the type.
        mean: Mean of each channel once `range` is 0 to 1.
        std: Standard deviation of each channel, likewise: the contrast.
        decode_s: Seconds that a core takes to decode an image.
        indexed: Whether an index has the mean and standard deviation of all of them.
        unlike: How many of those looked at cannot be decoded or have other channels.
    """

    count: int
    short_side: int
    long_side: int
    channels: int
    depth: Depth | None
    nodata: float | None
    range: tuple[float, float] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    decode_s: float
    indexed: bool
    unlike: int


def look(source: Sequence[str]) -> ImageFacts:
    """Look at a sample of images.

    Args:
        source: A folder or a table of images, or patterns of shards.

    Raises:
        OSError: The source cannot be read.
        ValueError: It holds no images, or none that can be decoded.
    """
    if not all(map(names_shards, source)):
        entries = [e for path in source for e in find_entries(Path(path), "path", None).entries]
        with tempfile.TemporaryDirectory() as folder:
            files = unpack(spread(entries), Path(folder))
            return measured([partial(read_file, file) for file in files], len(entries))
    shards = open_shards(source, verify=False)
    places = [(shard, i) for shard in shards for i in range(shard.samples)]
    readers = [partial(read_member, shard, i) for shard, i in spread(places)]
    indexed = all(shard.moments is not None for shard in shards)
    return measured(readers, len(places), indexed=indexed)


def names_shards(path: str) -> bool:
    """Whether a path or pattern is one of shards, not of a folder or a table."""
    return path.endswith((".tar", ".tar.gz"))


def spread(items: Sequence[Item]) -> list[Item]:
    """At most LOOKED_AT of these, evenly spread."""
    return list(items[:: -(-len(items) // LOOKED_AT)])


def read_file(entry: Entry) -> tuple[bytes, str]:
    """The bytes of an image file, and its suffix."""
    return entry.path.read_bytes(), entry.path.suffix.lower()[1:]


def read_member(shard: Shard, i: int) -> tuple[bytes, str]:
    """The bytes of the image of a sample, and its suffix."""
    return encoded_image(read_sample(shard, i))


def measured(readers: Sequence[Reader], count: int, *, indexed: bool = False) -> ImageFacts:
    """Measure a sample of `count` images: first what they are, then on the scale that this asks.

    Raises:
        OSError: An image cannot be read.
        ValueError: None can be decoded.
    """
    whole = list[tuple[Reader, int, int, int]]()
    measures: dict[int, Measure] = {}
    why = ""
    began = time.process_time()
    for read in counted(readers, "looking at images", len(readers), "images"):
        try:
            picture = open_image(*read(), None, MEASURED)
            stored = picture.whole()
            chans = stored.shape[2]
            measures.setdefault(chans, Measure(StoredConfig())).add(stored)
        except ValueError as error:
            why = why or str(error)
            continue
        whole.append((read, picture.height, picture.width, chans))
    decode_s = (time.process_time() - began) / len(readers)
    if not whole:
        raise ValueError(f"none of the {len(readers)} images that were tried can be used: {why}")
    channels = Counter(chans for *_, chans in whole).most_common(1)[0][0]
    moments = measures[channels].moments()
    depth = moments.depth
    nodata = depth.low if depth is not None and depth.low in NODATA else None
    stored_as = StoredConfig(nodata=nodata)
    if nodata is not None:  # what is left has another extent
        moments = again(whole, channels, stored_as).moments()
        depth = moments.depth
    if depth is not None and "--data.range" in depth.advice():
        stored_as = StoredConfig(nodata=nodata, range=depth.suggested())
        moments = again(whole, channels, stored_as).moments()
    return ImageFacts(
        count=count,
        short_side=round(median(min(h, w) for _, h, w, _ in whole)),
        long_side=round(median(max(h, w) for _, h, w, _ in whole)),
        channels=channels,
        depth=depth,
        nodata=nodata,
        range=stored_as.range,
        mean=moments.mean(),
        std=moments.std(),
        decode_s=decode_s,
        indexed=indexed and stored_as == StoredConfig(),
        unlike=len(readers) - sum(chans == channels for *_, chans in whole),
    )


def again(
    whole: Sequence[tuple[Reader, int, int, int]], channels: int, config: StoredConfig
) -> Measure:
    """Measure the images of so many channels on another scale."""
    measure = Measure(config)
    for read, *_, chans in whole:
        if chans == channels:
            measure.add(open_image(*read(), None, MEASURED).whole())
    return measure
