"""Where the samples of a shard lie, kept in `index.json` beside it.

The index lists the size and SHA-256 of every shard and the byte offset of every sample. The order
of samples, resuming and every read rely on it.
"""

import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.shards.moments import Moments
from fcmae.run.files import write_json

INDEX = "index.json"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file, and where its samples lie in it.

    Attributes:
        url: A path or a URL.
        size: The size of the file in bytes.
        sha256: The hash of the file, as 64 hexadecimal digits.
        offsets: The first byte of each sample, then the end of the last sample. This is an array
            because millions of Python integers would fill the memory of every worker.
        moments: The sums behind the mean and standard deviation of all pixels, if they are known.
    """

    url: str
    size: int
    sha256: str
    offsets: "array[int]"
    moments: Moments | None = None

    @property
    def name(self) -> str:
        """The file name, which is the last part of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def samples(self) -> int:
        """The number of samples in the shard."""
        return len(self.offsets) - 1


def read_index(directory: str, text: str | None = None) -> dict[str, Shard]:
    """Read the shards that `directory/index.json` lists, by file name.

    Args:
        directory: A path or URL. If it holds no index, the result is empty.
        text: The content of the file, if it was fetched already. By default it is read from disk.

    Raises:
        ValueError: The file is damaged.
    """
    path = f"{directory}/{INDEX}"
    if text is None:
        if not Path(path).exists():
            return {}
        text = Path(path).read_text(encoding="utf-8")
    if text.lstrip().startswith("<"):
        raise ValueError(
            f"{path} is a page of HTML and no index; the server answers with it for a file that is"
            " missing or needs a login: correct the URL, or put the index there"
        )
    try:
        entries = json.loads(text)["shards"]
        return {name: from_entry(f"{directory}/{name}", entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no index of shards ({error!r}); "
            "delete it and run python -m data.shards index on the shards"
        ) from error


def to_entry(shard: Shard) -> dict[str, Any]:
    """Turn a shard into its entry in index.json."""
    entry = {"size": shard.size, "sha256": shard.sha256, "offsets": shard.offsets.tolist()}
    return entry if shard.moments is None else entry | {"moments": shard.moments.to_entry()}


def from_entry(url: str, entry: dict[str, Any]) -> Shard:
    """Turn an entry of index.json into the shard at `url`, as the inverse of `to_entry`."""
    return Shard(
        url=url,
        size=int(entry["size"]),
        sha256=str(entry["sha256"]),
        offsets=array("q", entry["offsets"]),
        moments=Moments.from_entry(entry["moments"]) if "moments" in entry else None,
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
            " python -m data.shards index --statistics on the shards, or give mean and std"
        )
    channels = sorted({len(moments.sums) for moments in known})
    if len(channels) > 1:
        raise ValueError(f"the shards have images of {channels} channels; give mean and std")
    return Moments.merge(known)


def write_index(shards: Iterable[Shard]) -> None:
    """Write shards into the `index.json` beside them, which is replaced in one step.

    Entries of other shards stay as long as their files exist.

    Raises:
        ValueError: The present index is damaged.
    """
    by_directory: dict[Path, dict[str, Shard]] = {}
    for shard in shards:
        by_directory.setdefault(Path(shard.url).parent, {})[shard.name] = shard
    for directory, new in by_directory.items():
        entries = {
            name: to_entry(shard)
            for name, shard in (read_index(str(directory)) | new).items()
            if Path(shard.url).is_file()
        }
        write_json(directory / INDEX, {"shards": entries}, compact=True)
