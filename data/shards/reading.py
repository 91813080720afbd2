"""WebDataset tar shards: written whole or not at all, indexed, checked, read sample by sample.

A shard is an ordinary tar that the plain `webdataset` library reads: consecutive members `KEY.png`,
`KEY.cls`, `KEY.json` are one sample. Beside the shards lies `index.json` with the size and SHA-256
of every shard and the byte offset of every sample, so that a damaged shard is refused before
training and any sample is read with one seek. `python -m data.shards index SHARDS` writes that
index for tars made elsewhere, and `verify` checks all that is in them.

Three members of a tar take 2.5 kB beside their content. Where images are as small as that, shards
are better written compressed: `.tar.gz`, one gzip stream for every other reader, but flushed before
each sample (zlib's Z_FULL_FLUSH), so that the bytes of a sample can be decompressed alone.
"""

import hashlib
import json
import os
import tarfile
import zlib
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from braceexpand import braceexpand
from filelock import FileLock
from tqdm import tqdm

from data.config import SourceConfig
from data.shards.cache import open_cached, rename_cached
from data.shards.index import (
    INDEX,
    Shard,
    from_entry,
    index_shard,
    read_index,
    scan,
    to_entry,
)
from data.shards.members import unpack
from data.shards.sources import info, is_remote, read_all, read_range
from fcmae.run.files import file_sha256, write_json

LOCAL = SourceConfig()  # of shards that lie on this machine


def open_shards(
    spec: str | Sequence[str], verify: bool = True, source: SourceConfig = LOCAL
) -> list[Shard]:
    """Find the shards that `spec` names, in its order.

    `spec` is a path or URL, a brace pattern such as `DIR/train-{000000..000003}.tar`, or a list of
    them. A shard listed in the `index.json` beside it must have the size given there and, with
    `verify` and on this machine, the SHA-256; fetched ones are hashed when they are fetched. A
    shard that is not listed is scanned, which reads all of it, once: the scan is kept in
    `source.cache`.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: a shard or an index is damaged, a path is named twice, `spec` names nothing.
        OSError: a server does not answer, see `data.shards.sources`.
    """
    patterns = [spec] if isinstance(spec, str) else list(spec)
    urls = [url for pattern in patterns for url in braceexpand(pattern) if url]
    if not urls:
        raise ValueError(
            f"{spec!r} names no shard; "
            "give a path or a pattern like 'DIR/train-{000000..000003}.tar'"
        )
    seen: set[str] = set()
    for url in urls:
        if not is_remote(url):
            check_file(Path(url), spec)
        place = url if is_remote(url) else str(Path(url).resolve())
        if place in seen:
            raise ValueError(f"shard {url} is named twice in {spec!r}; name every shard once")
        seen.add(place)
    directories = {_directory(url) for url in urls}
    indexes = {directory: _open_index(directory, source) for directory in directories}
    listed = [indexes[_directory(url)].get(url.rpartition("/")[2]) for url in urls]

    def open_one(url: str, found: Shard | None) -> Shard:
        return index_unlisted(url, source) if found is None else check_shard(found, verify, source)

    unlisted = listed.count(None)
    with (
        # hashing and waiting release the interpreter lock, and of waiting servers many go at once
        ThreadPoolExecutor(64 if any(map(is_remote, urls)) else None) as pool,
        tqdm(
            total=unlisted, desc="indexing shards", unit="shard", disable=None if unlisted else True
        ) as bar,
    ):
        shards = []
        for shard, found in zip(pool.map(open_one, urls, listed), listed, strict=True):
            shards.append(shard)
            bar.update(found is None)
        return shards


def read_sample(shard: Shard, i: int, source: SourceConfig = LOCAL) -> dict[str, str | bytes]:
    """Read sample `i`: `{"__key__": str, "png": bytes, "cls": bytes, ...}`, suffixes in lower case.

    Raises:
        IndexError: unless 0 <= i < shard.samples.
        ValueError: the bytes there are no sample.
        OSError: the shard cannot be read or fetched, see `open_cached` and `read_range`.
    """
    if not 0 <= i < shard.samples:
        raise IndexError(f"sample {i} of {shard.url}: it holds samples 0 to {shard.samples - 1}")
    start, end = shard.offsets[i : i + 2]
    if is_remote(shard.url) and source.read == "range":
        content = read_range(shard.url, start, end, source)
    else:
        remote = is_remote(shard.url)
        file = open_cached(shard, source) if remote else os.open(shard.url, os.O_RDONLY)
        try:
            content = os.pread(file, end - start, start)
        finally:
            os.close(file)
    sample: dict[str, str | bytes] = {}
    try:
        if len(content) < end - start:
            raise tarfile.TarError("the file ends before them")
        if shard.url.endswith(".gz"):
            content = zlib.decompressobj(wbits=-zlib.MAX_WBITS).decompress(content)
        for key, suffix, member in unpack(content):
            if sample.setdefault("__key__", key) != key:
                raise tarfile.TarError(f"keys {sample['__key__']!r} and {key!r} in one sample")
            sample[suffix] = member
    except (tarfile.TarError, zlib.error) as error:
        raise ValueError(
            f"{shard.url}: bytes {start} to {end} are not sample {i} ({error}); the file changed "
            f"since it was indexed: restore it, or run python -m data.shards index {shard.url}"
        ) from error
    return sample


def index_unlisted(url: str, config: SourceConfig) -> Shard:
    """Scan a shard that no index.json lists, unless a scan of this very version is in the cache.

    A remote shard is fetched for it.

    Raises:
        OSError, ValueError: see `scan`, `open_cached` and `info`.
    """
    if is_remote(url):
        found = info(url, config)
        size, version = found.size, found.version
    else:
        status = Path(url).stat()
        size, version = status.st_size, str(status.st_mtime_ns)
    where = url if is_remote(url) else str(Path(url).resolve())
    name = hashlib.sha256(f"{where} {size} {version}".encode()).hexdigest()[:24]
    file = config.cache.expanduser() / "indexes" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if file.exists():
            return from_entry(url, json.loads(file.read_text(encoding="utf-8")))
        if is_remote(url):
            unknown = Shard(url=url, size=size, sha256="", offsets=array("q"))
            with os.fdopen(open_cached(unknown, config), "rb") as copy:
                shard = scan(copy, url)
            rename_cached(unknown, shard, config)
        else:
            shard = index_shard(Path(url))
        write_json(file, to_entry(shard), compact=True)
    return shard


def check_file(path: Path, spec: str | Sequence[str]) -> None:
    """There is a file where a shard is expected.

    Raises:
        ValueError: it is a folder.
        FileNotFoundError: there is nothing.
    """
    if path.is_dir():
        raise ValueError(
            f"{path} is a directory; name its shards, like '{path}/train-{{000000..000003}}.tar'"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"shard {path} does not exist; check the pattern {spec!r}, or build it "
            "(scripts/make_shards.py; the embedded set: python -m data.demo build)"
        )


def _directory(url: str) -> str:
    return url.rpartition("/")[0] if is_remote(url) else str(Path(url).parent)


def _open_index(directory: str, source: SourceConfig) -> dict[str, Shard]:
    if not is_remote(directory):
        return read_index(directory)
    try:
        text = read_all(f"{directory}/{INDEX}", source).decode()
    except FileNotFoundError:
        return {}
    return read_index(directory, text)


def check_shard(shard: Shard, verify: bool, source: SourceConfig) -> Shard:
    """The shard, which has the size that its index says, and with `verify` the SHA-256.

    Raises:
        ValueError: it has not.
    """
    path = shard.url
    remote = is_remote(path)
    way_out = (
        "it is truncated, damaged or was replaced: restore it, or if it is meant to differ, "
        f"run python -m data.shards index {path}"
    )
    size = info(path, source).size if remote else Path(path).stat().st_size
    if size != shard.size:
        raise ValueError(f"shard {path} has {size} bytes, {INDEX} says {shard.size}; {way_out}")
    if verify and not remote and (sha256 := file_sha256(Path(path))) != shard.sha256:
        raise ValueError(
            f"shard {path} has SHA-256 {sha256}, {INDEX} says {shard.sha256}; {way_out}"
        )
    return shard
