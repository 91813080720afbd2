"""Where the samples of a shard lie: the scan of a tar, and `index.json` beside the shards.

The index has the size and SHA-256 of every shard and the byte offset of every sample. Order, resume
and every read rest on it.
"""

import hashlib
import json
import os
import tarfile
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from data.shards.members import BLOCK, sample_members
from data.shards.moments import Moments
from fcmae.run.files import write_json

INDEX = "index.json"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file and where its samples lie.

    `url` is a path or a URL. `offsets` are in bytes of the file: the start of each sample, then the
    end of the last sample; an array, since millions of Python's integers would fill the memory of
    every worker. `size` is in bytes, `sha256` in hexadecimal. `moments` are those of all images, if
    they were taken.
    """

    url: str
    size: int
    sha256: str
    offsets: "array[int]"
    moments: Moments | None = None

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def samples(self) -> int:
        """How many samples the shard holds."""
        return len(self.offsets) - 1


def index_shard(path: Path) -> Shard:
    """Scan the uncompressed tar at `path`, made by anyone, and find its samples.

    A sample is a run of regular members with one key (see `split_name`); other members belong to
    none.

    Raises:
        ValueError: the file is truncated, damaged, compressed, holds no sample or repeats a member.
    """
    with path.open("rb") as file:
        return scan(file, str(path))


def scan(file: BufferedReader, url: str) -> Shard:
    """Find the samples of an open tar, whose shard lies at `url`, as `index_shard` does.

    Raises:
        ValueError: see `index_shard`.
    """
    offsets = array("q")
    current, suffixes, end = None, set[str](), 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for key, suffix, member in sample_members(tar):
                if key != current:
                    offsets.append(member.offset)
                    current, suffixes = key, set()
                if suffix in suffixes:
                    raise ValueError(
                        f"{url}: sample {key!r} has two members {suffix!r}; "
                        "every name in a shard must be unique"
                    )
                suffixes.add(suffix)
                end = tar.offset
                tar.members.clear()  # type: ignore[attr-defined]  # every header seen so far
            after = tar.offset
    except tarfile.TarError as error:
        raise ValueError(
            f"{url} is truncated, damaged or no uncompressed tar ({error}); "
            "copy or build it again, or decompress it"
        ) from error
    # tarfile takes an unreadable header for the end of the archive, which is a block of zeros
    file.seek(after)
    if file.read(BLOCK) != bytes(BLOCK):
        raise ValueError(
            f"{url} is truncated or damaged: byte {after} begins neither a tar header nor the "
            "end of the archive; copy or build it again"
        )
    if not offsets:
        raise ValueError(f"{url} holds no samples: members must be named KEY.png, KEY.cls, ...")
    offsets.append(end)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Shard(url=url, size=size, sha256=sha256, offsets=offsets)


def read_index(directory: str, text: str | None = None) -> dict[str, Shard]:
    """The shards that `directory/index.json` lists, by name; none if there is no such file.

    `text` is the file's content, where it was read from afar.

    Raises:
        ValueError: the file is damaged.
    """
    path = f"{directory}/{INDEX}"
    if text is None:
        if not Path(path).exists():
            return {}
        text = Path(path).read_text(encoding="utf-8")
    try:
        entries = json.loads(text)["shards"]
        return {name: from_entry(f"{directory}/{name}", e) for name, e in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no index of shards ({error!r}); "
            "delete it and run python -m data.shards index on the shards"
        ) from error


def to_entry(shard: Shard) -> dict[str, Any]:
    """What an index says of a shard."""
    entry = {"size": shard.size, "sha256": shard.sha256, "offsets": shard.offsets.tolist()}
    return entry if shard.moments is None else entry | {"moments": asdict(shard.moments)}


def from_entry(url: str, entry: dict[str, Any]) -> Shard:
    """The inverse of `to_entry`."""
    return Shard(
        url=url,
        size=int(entry["size"]),
        sha256=str(entry["sha256"]),
        offsets=array("q", entry["offsets"]),
        moments=Moments.from_entry(entry["moments"]) if "moments" in entry else None,
    )


def statistics(shards: Sequence[Shard]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over the pixels of all shards.

    Raises:
        ValueError: a shard's index does not have them, or the channels differ.
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
    merged = Moments.merge(known)
    return merged.mean(), merged.std()


def write_index(shards: Iterable[Shard]) -> None:
    """Put the shards into the `index.json` beside them, in one step.

    Entries of other shards that exist stay.

    Raises:
        ValueError: the index there is damaged.
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
