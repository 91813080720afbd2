"""A cache on disk for remote shards: bounded in size, shared by the processes of a node.

One process fetches a shard under a lock while the others wait. The shard gets its name once it is
whole and its hash is right. If a process is killed, its lock is released, and the next process
fetches the shard again, over the incomplete file.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from data.config import SourceConfig
from data.shards.index import Shard
from data.shards.sources import download
from fcmae.run.files import file_sha256, move_into_place, text_sha256


def open_cached(shard: Shard, config: SourceConfig) -> int:
    """Open a shard's copy in the cache, and fetch the shard first if there is no copy.

    The copy may be removed from the cache at any time, but an open file stays readable.

    Returns:
        A file descriptor, which the caller closes.

    Raises:
        ValueError: The SHA-256 is not the one in the index, or the shard is larger than the cache.
        OSError: The shard cannot be fetched, or the cache cannot be written.
    """
    copy = cached_path(shard, config)
    limit = config.cache_gb * 1e9
    with suppress(FileNotFoundError):
        return open_copy(copy)
    if shard.size > limit:
        raise ValueError(
            f"shard {shard.url} has {shard.size} bytes and data.source.cache_gb={config.cache_gb}"
            " holds less; raise it, or take data.source.read range"
        )
    with locked(Path(f"{copy}.lock")):
        with suppress(FileNotFoundError):
            return open_copy(copy)
        partial = copy.with_suffix(".part")
        make_room(copy.parent, limit - shard.size)
        download(shard.url, shard.size, partial, config)
        if shard.sha256 and (sha256 := file_sha256(partial)) != shard.sha256:
            partial.unlink()
            raise ValueError(
                f"shard {shard.url} has SHA-256 {sha256}, its index says {shard.sha256}; it was"
                " replaced or damaged: restore it, or index it again"
            )
        file = os.open(partial, os.O_RDONLY)  # first: once it has its name it may be removed
        move_into_place(partial, copy)
    make_room(copy.parent, limit)  # others may have fetched meanwhile
    return file


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock of a file in the cache, whose folder is made; wait where another process does.

    Raises:
        OSError: The folder cannot be written, or its file system has no locks.
    """
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise OSError(
            f"{file.parent} cannot be used as a cache ({error}); name a folder that can be written,"
            " on a disk with file locks, by --data.source.cache"
        ) from error
    try:
        yield
    finally:
        lock.release()


def open_copy(copy: Path) -> int:
    """Open a cached file and mark it as used now."""
    os.utime(copy)
    return os.open(copy, os.O_RDONLY)


def rename_cached(old: Shard, new: Shard, config: SourceConfig) -> None:
    """Rename the copy of a shard whose SHA-256 became known only after it was fetched."""
    with suppress(FileNotFoundError):  # it left the cache already
        cached_path(old, config).replace(cached_path(new, config))


def cached_path(shard: Shard, config: SourceConfig) -> Path:
    """Where the cache keeps this version of a shard."""
    version = text_sha256(f"{shard.url} {shard.size} {shard.sha256}")[:24]
    return config.cache.expanduser() / "shards" / f"{version}.tar"


def make_room(directory: Path, limit: float) -> None:
    """Remove the least recently used files until the others take at most `limit` bytes.

    A file that a process is fetching is locked, and stays.
    """
    with locked(directory / "room.lock"):
        files = []
        for path in directory.iterdir():
            # a part turns into a shard, and out of this list, at any time
            with suppress(FileNotFoundError):
                if path.suffix in (".tar", ".part"):
                    status = path.stat()
                    files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= limit:
                break
            if path.suffix == ".tar":
                path.unlink(missing_ok=True)
                total -= size
                continue
            with suppress(Timeout), FileLock(f"{path.with_suffix('.tar')}.lock", blocking=False):
                path.unlink(missing_ok=True)  # of a process that was killed
                total -= size
