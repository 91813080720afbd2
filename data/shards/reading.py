"""Reading WebDataset shards: finding and checking them, and reading any of their samples.

A shard is an ordinary tar, which the `webdataset` library can read, too: consecutive members
`KEY.png`, `KEY.cls`, `KEY.json` are one sample. The file `index.json` beside the shards lists the
size and SHA-256 of every shard and the byte offset of every sample. So a damaged shard is refused
before training starts, and any sample is read with one seek. `fcmae shards index SHARDS`
writes this index for tars that others made, and `verify` checks all that is in them.

The headers and padding of three members take 2.5 kB. If images are not larger than that, it is
better to write `.tar.gz`. Other readers see one ordinary gzip stream, but it is flushed before each
sample (Z_FULL_FLUSH of zlib), so the bytes of one sample can be decompressed alone.
"""

import json
import os
import zlib
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from data.config import SourceConfig
from data.shards.addresses import Address, directory_of, identity, is_remote, within
from data.shards.cache import locked, open_cached, rename_cached
from data.shards.headers import DamagedTar
from data.shards.http import RemoteInfo
from data.shards.index import INDEX, MOST_BYTES, Shard, from_entry, read_index, to_entry
from data.shards.members import unpack
from data.shards.patterns import expand, not_found
from data.shards.scanning import index_shard, scan
from data.shards.sources import info, read_all, read_range
from data.shards.tar import INFLATED
from fcmae.run.files import file_sha256, text_sha256, write_json
from fcmae.run.json_files import read_json
from fcmae.run.waiting import counted

BESIDE = 2**26  # bytes of a file beside shards
PIECE = 2**24  # bytes that are decompressed at a time
LOCAL = SourceConfig()  # for shards on this machine, which need no settings


def open_shards(
    spec: str | Sequence[str],
    verify: bool = True,
    source: SourceConfig = LOCAL,
    image: str = "",
) -> list[Shard]:
    """Find shards and check them against the `index.json` beside them.

    A shard that no index lists is scanned, which reads all of it, but only once: the result is kept
    in `source.cache`.

    Args:
        spec: A path or URL, a pattern such as `DIR/train-{000000..000003}.tar` or `DIR/*.tar`, or a
            list of these.
        verify: Whether shards on this machine must have the SHA-256 that is in the index. Remote
            ones are hashed when they are fetched. The size is always checked.
        source: How remote shards are read.
        image: The suffix of the images in shards that are scanned, as `scan` takes it.

    Returns:
        The shards in the order of `spec`.

    Raises:
        FileNotFoundError, ValueError: See `data.shards.patterns.expand`.
        ValueError: A shard or an index is damaged.
        OSError: A server does not answer, see `data.shards.sources`.
    """
    urls = [Address(url) if is_remote(url) else url for url in expand(spec)]
    directories = {directory_of(url) for url in urls}
    indexes = {directory: open_index(directory, source) for directory in directories}
    listed = [indexes[directory_of(url)].get(url.rpartition("/")[2]) for url in urls]

    def open_one(url: str, shard: Shard | None) -> Shard | None:
        try:
            if shard is None:
                return index_unlisted(url, source, image)
            return check_shard(replace(shard, url=url), verify, source)
        except FileNotFoundError:  # on a server; all of them are named together
            return None

    doing = "scanning shards" if None in listed else "verifying shards"
    # hashing and waiting release the interpreter lock, and many servers can be awaited at once
    with ThreadPoolExecutor(64 if any(map(is_remote, urls)) else None) as pool:
        opened = list(counted(pool.map(open_one, urls, listed), doing, len(urls), "shards"))
    missing = [url for url, shard in zip(urls, opened, strict=True) if shard is None]
    if missing:
        raise not_found(missing, len(urls), spec)
    return [shard for shard in opened if shard is not None]


def read_sample(shard: Shard, i: int, source: SourceConfig = LOCAL) -> dict[str, str | bytes]:
    """Read one sample of a shard.

    Args:
        shard: The shard.
        i: The number of the sample in it, from 0.
        source: How remote shards are read.

    Returns:
        `{"__key__": str, "png": bytes, "cls": bytes, ...}` with suffixes in lower case.

    Raises:
        IndexError: `i` is not within 0 <= i < shard.samples.
        ValueError: The bytes at this place are no sample.
        OSError: The shard cannot be read or fetched, see `open_cached` and `read_range`.
    """
    if not 0 <= i < shard.samples:
        raise IndexError(f"sample {i} of {shard.url}: it holds samples 0 to {shard.samples - 1}")
    start, end = shard.offsets[i : i + 2]
    remote = is_remote(shard.url)
    if remote and source.read == "range":
        content = read_range(shard.url, start, end, source, shard.version)
    else:
        file = open_cached(shard, source) if remote else os.open(shard.url, os.O_RDONLY)
        try:
            content = os.pread(file, end - start, start)
        finally:
            os.close(file)
    sample: dict[str, str | bytes] = {}
    try:
        if len(content) < end - start:
            raise DamagedTar("the file ends before them")
        if shard.url.endswith(".gz"):
            content = inflated(content)
        for key, suffix, member in unpack(content):
            if sample.setdefault("__key__", key) != key:
                raise DamagedTar(f"keys {sample['__key__']!r} and {key!r} in one sample")
            sample[suffix] = member
    except (DamagedTar, zlib.error) as error:
        raise ValueError(
            f"{shard.url}: bytes {start} to {end} are not sample {i} ({error}); the file changed "
            f"since it was indexed: restore it, or run fcmae shards index {shard.url}"
        ) from error
    return sample


def inflated(content: bytes) -> bytes:
    """Decompress the bytes of a sample, each of which may stand for a thousand.

    Raises:
        DamagedTar: They would become more than INFLATED.
        zlib.error: They are damaged.
    """
    stream = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    pieces = [stream.decompress(content, PIECE)]
    while len(pieces[-1]) == PIECE:  # there may be more
        if PIECE * len(pieces) > INFLATED:
            raise DamagedTar(f"they unpack to more than {INFLATED} bytes")
        pieces.append(stream.decompress(stream.unconsumed_tail, PIECE))
    return b"".join(pieces)


def index_unlisted(url: str, config: SourceConfig, image: str = "") -> Shard:
    """Scan a shard that no index.json lists, and keep the result in the cache.

    The scan is skipped if the cache has the result for this version of the shard. Otherwise a
    remote shard is fetched first.

    Raises:
        OSError, ValueError: See `scan`, `open_cached` and `info`.
    """
    remote = is_remote(url)
    if remote:
        answer = info(url, config)
        where = identity(url)
        size = answer.size
        version = answer.version
    else:
        status = Path(url).stat()
        where = str(Path(url).resolve())
        size = status.st_size
        version = str(status.st_mtime_ns)
    name = text_sha256(f"{where} {size} {version}")[:24]
    file = config.cache.expanduser() / "indexes" / f"{name}.json"
    with locked(file.with_suffix(".lock")):
        kept = read_scan(file, url)
        if kept is not None:
            return replace(kept, version=version)
        if remote:
            unknown = Shard(url=url, size=size, sha256="", offsets=array("q"), version=version)
            with os.fdopen(open_cached(unknown, config), "rb") as copy:
                shard = replace(scan(copy, url, image).shard, version=version)
            rename_cached(unknown, shard, config)
        else:
            shard = index_shard(Path(url), image)
        entry = to_entry(shard)
        write_json(file, {"sha256": text_sha256(json.dumps(entry)), "entry": entry}, compact=True)
    return shard


def read_scan(file: Path, url: str) -> Shard | None:
    """Read the result of a scan that the cache keeps; None if there is none, or it is damaged."""
    with suppress(FileNotFoundError, ValueError):
        kept = read_json(file, dict, MOST_BYTES)
        shard = from_entry(url, kept.get("entry"))
        if text_sha256(json.dumps(to_entry(shard))) == kept.get("sha256"):
            return shard
    return None


def open_index(directory: str, source: SourceConfig) -> dict[str, Shard]:
    """Read the index of a directory on this machine or another, as `read_index` does."""
    content = read_beside(directory, INDEX, source, MOST_BYTES)
    return {} if content is None else read_index(directory, content)


def read_beside(
    directory: str, name: str, source: SourceConfig, most: int = BESIDE
) -> bytes | None:
    """Read a small file beside shards, on this machine or another; None without one.

    Args:
        directory: The path or URL of the shards' directory.
        name: The name of the file.
        source: How remote files are read.
        most: The number of bytes that it may have.

    Raises:
        OSError, ModuleNotFoundError: See `data.shards.sources.read_all`.
        ValueError: It has more than `most` bytes.
    """
    path = within(directory, name)
    try:
        if is_remote(path):
            return read_all(path, most, source)
        if Path(path).stat().st_size > most:
            raise ValueError(f"{path} has more than {most} bytes, which none of ours has")
        return Path(path).read_bytes()
    except FileNotFoundError:
        return None


def check_shard(shard: Shard, verify: bool, source: SourceConfig) -> Shard:
    """Check that a shard has the size and, with `verify`, the SHA-256 that the index says.

    The SHA-256 is only checked on this machine.

    Raises:
        ValueError: The shard differs from its index.
    """
    path = shard.url
    remote = is_remote(path)
    way_out = (
        "it is truncated, damaged or was replaced: restore it, or if it is meant to differ, "
        f"run fcmae shards index {path}"
    )
    found = info(path, source) if remote else RemoteInfo(Path(path).stat().st_size, "")
    if found.size != shard.size:
        raise ValueError(
            f"shard {path} has {found.size} bytes, {INDEX} says {shard.size}; {way_out}"
        )
    if verify and not remote and (sha256 := file_sha256(Path(path))) != shard.sha256:
        raise ValueError(
            f"shard {path} has SHA-256 {sha256}, {INDEX} says {shard.sha256}; {way_out}"
        )
    return replace(shard, version=found.version)
