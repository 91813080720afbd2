"""A bounded directory of fetched shards that the processes of a node share.

A shard is fetched by one process under a lock, the others wait for it; it gets its name when it is
whole and its hash is right. A process that is killed lets go of the lock, and the next one fetches
anew over what it left.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from data.config import SourceConfig
from data.shards.index import Shard
from data.shards.sources import download
from fcmae.run.files import file_sha256, move_into_place


def open_cached(shard: Shard, config: SourceConfig) -> int:
    """A file descriptor of the shard's copy in the cache, fetched if it is not there.

    The copy may leave the cache at any time; what is open stays readable.

    Raises:
        ValueError: the fetched shard has not the SHA-256 of its index; it is larger than the cache.
        OSError: it cannot be fetched or the cache not be written.
    """
    copy, limit = _place(shard, config), config.cache_gb * 1e9
    with suppress(FileNotFoundError):
        return _open_used(copy)
    if shard.size > limit:
        raise ValueError(
            f"shard {shard.url} has {shard.size} bytes and data.source.cache_gb={config.cache_gb}"
            " holds less; raise it, or take data.source.read range"
        )
    copy.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{copy}.lock"):
        with suppress(FileNotFoundError):
            return _open_used(copy)
        partial = copy.with_suffix(".part")
        _make_room(copy.parent, limit - shard.size)
        download(shard.url, shard.size, partial, config)
        if shard.sha256 and (found := file_sha256(partial)) != shard.sha256:
            partial.unlink()
            raise ValueError(
                f"shard {shard.url} has SHA-256 {found}, its index says {shard.sha256}; it was"
                " replaced or damaged: restore it, or index it again"
            )
        file = os.open(partial, os.O_RDONLY)  # first: once it has its name it may be removed
        move_into_place(partial, copy)
    _make_room(copy.parent, limit)  # others may have fetched meanwhile
    return file


def _open_used(copy: Path) -> int:
    os.utime(copy)  # used now
    return os.open(copy, os.O_RDONLY)


def rename_cached(old: Shard, new: Shard, config: SourceConfig) -> None:
    """Keep the copy of a shard whose SHA-256 was unknown when it was fetched, and is known now."""
    with suppress(FileNotFoundError):  # it left the cache already
        _place(old, config).replace(_place(new, config))


def _place(shard: Shard, config: SourceConfig) -> Path:
    version = hashlib.sha256(f"{shard.url} {shard.size} {shard.sha256}".encode()).hexdigest()[:24]
    return config.cache.expanduser() / "shards" / f"{version}.tar"


def _make_room(directory: Path, limit: float) -> None:
    """Remove the least recently used files until the rest is within `limit` bytes.

    What a process is fetching stays: it holds the lock.
    """
    with FileLock(directory / "room.lock"):
        found = []
        for path in directory.iterdir():
            # a part turns into a shard, and out of this list, at any time
            with suppress(FileNotFoundError):
                if path.suffix in (".tar", ".part"):
                    status = path.stat()
                    found.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= limit:
                break
            if path.suffix == ".tar":
                path.unlink(missing_ok=True)
                total -= size
                continue
            with suppress(Timeout), FileLock(f"{path.with_suffix('.tar')}.lock", blocking=False):
                path.unlink(missing_ok=True)  # of a process that was killed
                total -= size
