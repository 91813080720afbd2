"""Where the samples of a shard lie, kept in `index.json` beside it.

The index lists the size and SHA-256 of every shard and the byte offset of every sample. The order
of samples, resuming and every read rely on it. It may say, too, what a command made the shards of,
so that its repetition finds them done.
"""

import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import lt, sub
from pathlib import Path
from typing import Any, cast

from data.shards.index_lock import index_lock
from data.shards.moments import Moments
from data.shards.tar import LARGEST
from fcmae.run.files import write_json
from fcmae.run.json_files import as_object, field_of, is_page, parse_json, read_json

INDEX = "index.json"
MOST_BYTES = 2**30  # of an index, which has some 11 for each sample
SHA256 = re.compile("[0-9a-f]{64}")
MADE = "made"  # in the index: what the shards of a command were made of, by its prefix


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file, and where its samples lie in it.

    Attributes:
        url: A path or a URL, which shows no secrets, see `data.shards.addresses`.
        size: The size of the file in bytes.
        sha256: The hash of the file, as 64 hexadecimal digits.
        offsets: The first byte of each sample, then the end of the last sample. This is an array
            because millions of Python integers would fill the memory of every worker.
        moments: The sums behind the mean and standard deviation of all pixels, if they are known.
        version: What the server calls the version of the file since it was opened.
    """

    url: str
    size: int
    sha256: str
    offsets: "array[int]"
    moments: Moments | None = None
    version: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """The file name, which is the last part of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def samples(self) -> int:
        """The number of samples in the shard."""
        return len(self.offsets) - 1


def read_index(directory: str, content: bytes | None = None) -> dict[str, Shard]:
    """Read the shards that `directory/index.json` lists, by file name.

    Args:
        directory: A path or URL. If it holds no index, the result is empty.
        content: The bytes of the file, if it was fetched already. By default it is read from disk.

    Raises:
        ValueError: The file is damaged.
    """
    path = f"{directory}/{INDEX}"
    if content is None and not Path(path).exists():
        return {}
    if content is not None and is_page(content):
        raise ValueError(
            f"{path} is a page of HTML and no index; the server answers with it for a file that is"
            " missing or needs a login: correct the URL, or put the index there"
        )
    try:
        if content is None:
            index = read_json(Path(path), dict, MOST_BYTES)
        else:
            index = parse_json(content, "it", dict)
        return shards_in(index, directory)
    except ValueError as error:
        raise ValueError(
            f"{path} is no index of shards ({error}); "
            "delete it and run fcmae shards index on the shards"
        ) from error


def shards_in(index: dict[str, object], directory: str) -> dict[str, Shard]:
    """The shards of an index, by file name.

    Raises:
        ValueError: It has no shards, an entry is damaged, or one is under a name of no file.
    """
    entries = index.get("shards")
    if not isinstance(entries, dict):
        raise ValueError("it has no object 'shards'")
    shards: dict[str, Shard] = {}
    for name, entry in cast("dict[str, object]", entries).items():
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise ValueError(f"{name!r} is no name of a shard")
        try:
            shards[name] = from_entry(f"{directory}/{name}", entry)
        except ValueError as error:
            raise ValueError(f"shard {name!r}: {error}") from error
    return shards


def made_of(directory: Path) -> dict[str, object]:
    """What the index of a directory says that its shards were made of, by the prefix of a command.

    Raises:
        ValueError: The file is no JSON.
    """
    file = directory / INDEX
    made = read_json(file, dict, MOST_BYTES).get(MADE) if file.exists() else None
    return cast("dict[str, object]", made) if isinstance(made, dict) else {}


def to_entry(shard: Shard) -> dict[str, Any]:
    """Turn a shard into its entry in index.json."""
    entry = {"size": shard.size, "sha256": shard.sha256, "offsets": shard.offsets.tolist()}
    return entry if shard.moments is None else entry | {"moments": shard.moments.to_entry()}


def from_entry(url: str, entry: object) -> Shard:
    """Turn an entry of index.json into the shard at `url`, as the inverse of `to_entry`.

    Raises:
        ValueError: A field is missing, or is none that `to_entry` gives.
    """
    fields = as_object(entry)
    size, sha256 = field_of(fields, "size", int), field_of(fields, "sha256", str)
    if size < 0 or not SHA256.fullmatch(sha256):
        raise ValueError("its size is below 0, or its sha256 has not 64 hexadecimal digits")
    offsets = fields.get("offsets")
    if not isinstance(offsets, list) or set(map(type, cast("list[object]", offsets))) != {int}:
        raise ValueError("its field 'offsets' is no list of whole numbers")
    places = cast("list[int]", offsets)
    if len(places) < 2 or places[0] < 0 or places[-1] > size:
        raise ValueError(f"its offsets are no places of samples in {size} bytes")
    if not all(map(lt, places, islice(places, 1, None))):
        raise ValueError("its offsets do not increase")
    if max(map(sub, islice(places, 1, None), places)) > LARGEST:
        raise ValueError(f"it has a sample of more than {LARGEST} bytes")
    moments = fields.get("moments")
    return Shard(
        url=url,
        size=size,
        sha256=sha256,
        offsets=array("q", places),
        moments=None if moments is None else Moments.from_entry(moments),
    )


def statistics(shards: Sequence[Shard]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and standard deviation of each channel over the pixels of all shards.

    Raises:
        ValueError: See `merged_moments`.
    """
    moments = merged_moments(shards)
    return moments.mean(), moments.std()


def merged_moments(shards: Sequence[Shard]) -> Moments:
    """What was measured of the pixels of all shards.

    Raises:
        ValueError: The index of a shard has no statistics, or they were measured in different ways,
            or the numbers of channels differ.
    """
    known = [shard.moments for shard in shards if shard.moments is not None]
    if len(known) < len(shards):
        without = next(shard.url for shard in shards if shard.moments is None)
        raise ValueError(
            f"the index of {without} has no statistics; run"
            " fcmae shards index --statistics on the shards, or give mean and std"
        )
    channels = sorted({len(moments.sums) for moments in known})
    if len(channels) > 1:
        raise ValueError(f"the shards have images of {channels} channels; give mean and std")
    return Moments.merge(known)


def write_index(shards: Iterable[Shard], made: Mapping[str, Any] | None = None) -> None:
    """Write shards into the `index.json` beside them, which is replaced in one step.

    Entries of other shards stay as long as their files exist, also those that another program adds
    meanwhile.

    Args:
        shards: The shards.
        made: What they were made of, by the prefix of the command, if it is to be kept.

    Raises:
        ValueError: The present index is damaged.
    """
    by_directory: dict[Path, dict[str, Shard]] = {}
    for shard in shards:
        by_directory.setdefault(Path(shard.url).parent, {})[shard.name] = shard
    for directory, new in by_directory.items():
        with index_lock(directory / INDEX):
            entries = {
                name: to_entry(shard)
                for name, shard in (read_index(str(directory)) | new).items()
                if Path(shard.url).is_file()
            }
            index: dict[str, Any] = {"shards": entries}
            if known := made_of(directory) | dict(made or {}):
                index[MADE] = known
            write_json(directory / INDEX, index, compact=True)
