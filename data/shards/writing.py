"""Writing shards: each is written whole or not at all, and equal samples give equal bytes."""

import tempfile
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tarfile import PAX_FORMAT, TarInfo
from typing import Any

from data.shards.headers import BLOCK
from data.shards.index import Shard, write_index
from data.shards.members import split_name
from data.shards.tar import INFLATED
from fcmae.run.files import file_sha256, move_into_place, writing


def write_shards(
    samples: Iterable[Mapping[str, Any]],
    directory: Path,
    prefix: str,
    shard_size: int,
    compress: bool = False,
) -> list[Shard]:
    """Write samples to `directory/PREFIX-000000.tar`, ..., and index these shards.

    Shards are written to a temporary folder, and moved to their place once the last sample is
    written, so an interrupted call leaves no shard with a final name. Only one call at a time may
    write to a directory.

    Args:
        samples: Each is `{"__key__": str, "png" | "jpg": bytes, "cls": int, "json": dict}`. Any
            member may be left out, or given as bytes.
        directory: Where the shards go.
        prefix: The first part of their names.
        shard_size: The number of samples in each shard but the last, which may have fewer.
        compress: Whether the files are `.tar.gz`.

    Raises:
        ValueError: webdataset would cut a key or join two samples, there are no samples, or
            `shard_size` is below 1.
        FileExistsError: The directory has shards with this prefix.
        OSError: A shard cannot be written.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size={shard_size} must be at least 1 sample")
    refuse_existing(directory, prefix)
    with writing(directory, directory):
        directory.mkdir(parents=True, exist_ok=True)
        unfinished = tempfile.TemporaryDirectory(prefix=f".{prefix}-", dir=directory)
    stream = checked(samples)
    shards: list[Shard] = []
    with unfinished as staging:
        while batch := list(islice(stream, shard_size)):
            name = f"{prefix}-{len(shards):06d}.tar" + (".gz" if compress else "")
            with writing(directory / name, Path(staging)):
                shards.append(write_shard(batch, Path(staging) / name, compress))
        if not shards:
            raise ValueError(f"no samples to write as {prefix!r} shards into {directory}")
        for shard in shards:
            with writing(directory / shard.name, Path(staging)):
                move_into_place(Path(shard.url), directory / shard.name)
    shards = [replace(shard, url=str(directory / shard.name)) for shard in shards]
    write_index(shards)
    return shards


def refuse_existing(directory: Path, prefix: str, why: str = "") -> None:
    """Check that a directory has no shards with this prefix.

    Args:
        directory: The directory.
        prefix: The first part of the names of shards.
        why: What else is to be said, if it has some.

    Raises:
        FileExistsError: It has some.
    """
    existing = sorted(directory.glob(f"{prefix}-*.tar*"))
    if existing:
        raise FileExistsError(
            f"{existing[0]} exists and shards are never overwritten{why}; "
            f"delete {directory}/{prefix}-*.tar* or choose another directory or prefix"
        )


def checked(samples: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Pass samples on, and check that webdataset would read their keys as they are.

    Raises:
        ValueError: webdataset would cut a key or join two samples.
    """
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
    """Write one shard, without syncing it and without adding it to an index.

    The samples must have passed `checked`.

    Raises:
        ValueError: A sample is too large to be compressed.
    """
    gzip = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS) if compress else None

    def pack(content: bytes, flush: int = zlib.Z_FULL_FLUSH) -> bytes:
        return gzip.compress(content) + gzip.flush(flush) if gzip else content

    with path.open("wb") as file:
        file.write(pack(b""))  # the gzip header
        offsets = array("q")
        for sample in samples:
            offsets.append(file.tell())
            content = tar_blocks(sample)
            if compress and len(content) > INFLATED:
                raise ValueError(
                    f"sample {sample['__key__']!r} has {len(content)} bytes, and a compressed one"
                    f" may have {INFLATED}: leave out --compress"
                )
            file.write(pack(content))
        offsets.append(file.tell())
        file.write(pack(bytes(2 * BLOCK), zlib.Z_FINISH))  # the end of the archive
    size = path.stat().st_size
    return Shard(url=str(path), size=size, sha256=file_sha256(path), offsets=offsets)


def tar_blocks(sample: Mapping[str, Any]) -> bytes:
    """The members of a sample as tar headers and contents, without the end of an archive.

    They are the bytes of webdataset's TarWriter, of which each sample would need its own.
    """
    from webdataset.writer import default_handlers, encode_based_on_extension  # they import torch

    encoded = encode_based_on_extension(dict(sample), default_handlers)
    key = encoded.pop("__key__")
    blocks: list[bytes] = []
    for suffix, content in sorted(encoded.items()):
        header = TarInfo(f"{key}.{suffix}")
        header.size = len(content)
        header.mode = 0o444
        header.uname = header.gname = "bigdata"
        # pax allows keys of any length and alphabet, and writes plain headers where they suffice
        blocks += header.tobuf(PAX_FORMAT), content, bytes(-len(content) % BLOCK)
    return b"".join(blocks)
