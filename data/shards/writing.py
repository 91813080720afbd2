"""Shards are written: whole or not at all, equal samples to equal bytes."""

import io
import tempfile
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from data.shards.index import Shard, write_index
from data.shards.members import BLOCK, split_name
from fcmae.run.files import file_sha256, move_into_place


def write_shards(
    samples: Iterable[Mapping[str, Any]],
    directory: Path,
    prefix: str,
    shard_size: int,
    compress: bool = False,
) -> list[Shard]:
    """Write `directory/PREFIX-000000.tar`, ... with `shard_size` samples each, and index them.

    A sample is `{"__key__": str, "png" | "jpg": bytes, "cls": int, "json": dict}`; any member may
    be left out or given as bytes. With `compress` the files are `.tar.gz`. Equal samples make equal
    bytes. Shards are written in a temporary folder, synced, and moved to their place when the last
    sample is written: an interrupted call leaves no shard with a final name. One call at a time may
    write into a directory.

    Raises:
        ValueError: webdataset would cut a key or join it with its neighbour; there are no samples;
            `shard_size` is below 1.
        FileExistsError: the directory holds shards of this prefix.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size={shard_size} must be at least 1 sample")
    refuse_existing(directory, prefix)
    directory.mkdir(parents=True, exist_ok=True)
    stream, shards = checked(samples), list[Shard]()
    with tempfile.TemporaryDirectory(prefix=f".{prefix}-", dir=directory) as staging:
        while batch := list(islice(stream, shard_size)):
            name = f"{prefix}-{len(shards):06d}.tar" + (".gz" if compress else "")
            shards.append(write_shard(batch, Path(staging) / name, compress))
        if not shards:
            raise ValueError(f"no samples to write as {prefix!r} shards into {directory}")
        for shard in shards:
            move_into_place(Path(shard.url), directory / shard.name)
    shards = [replace(shard, url=str(directory / shard.name)) for shard in shards]
    write_index(shards)
    return shards


def refuse_existing(directory: Path, prefix: str) -> None:
    """Raise FileExistsError if the directory holds shards of this prefix."""
    existing = sorted(directory.glob(f"{prefix}-*.tar*"))
    if existing:
        raise FileExistsError(
            f"{existing[0]} exists and shards are never overwritten; "
            f"delete {directory}/{prefix}-*.tar* or choose another directory or prefix"
        )


def checked(samples: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The samples, if their keys survive webdataset; raises ValueError otherwise."""
    previous = None
    for sample in samples:
        key = sample["__key__"]
        if split_name(f"{key}.png") != (key, "png"):
            raise ValueError(
                f"key {key!r} would not survive webdataset, which cuts a name at the first dot of "
                "its last part and skips folders like '__x__'; replace the dots, rename the folder"
            )
        if key == previous:
            raise ValueError(
                f"two neighbouring samples have the key {key!r} and would be read as one; "
                "give every sample its own key"
            )
        previous = key
        yield sample


def write_shard(samples: Iterable[Mapping[str, Any]], path: Path, compress: bool) -> Shard:
    """Write one shard; it is neither synced nor listed in an index yet."""
    gzip = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS) if compress else None

    def pack(content: bytes, flush: int = zlib.Z_FULL_FLUSH) -> bytes:
        return gzip.compress(content) + gzip.flush(flush) if gzip else content

    with path.open("wb") as file:
        file.write(pack(b""))  # the gzip header
        offsets = array("q")
        for sample in samples:
            offsets.append(file.tell())
            file.write(pack(_tar_blocks(sample)))
        offsets.append(file.tell())
        file.write(pack(bytes(2 * BLOCK), zlib.Z_FINISH))  # the end of the archive
    size, sha256 = path.stat().st_size, file_sha256(path)
    return Shard(url=str(path), size=size, sha256=sha256, offsets=offsets)


def _tar_blocks(sample: Mapping[str, Any]) -> bytes:
    from webdataset.writer import TarWriter  # here: it imports torch, which reading does without

    buffer = io.BytesIO()
    # pax allows keys of any length and alphabet, and writes plain ustar headers where those do
    with TarWriter(buffer, mtime=0, format="PAX_FORMAT") as writer:
        writer.write(dict(sample))
        end = writer.tarstream.offset
    return buffer.getvalue()[:end]
