"""A cache on disk for remote shards: bounded in size, shared by the processes of a node.

One process fetches a shard under a lock while the others wait. The shard gets its name once it is
whole and its hash is right. If a process is killed, its lock is released, and the next process
fetches the shard again.

Before a fetch, room for all of the shard is reserved, as an empty file of its size: the copies and
what is being fetched never take more than the bound. Where other fetches have taken the room, the
shard waits for them.

A copy is hashed again by the first process that opens it after a start, and whenever its inode, its
size or its times have changed; the others rely on that. If it differs, it is fetched anew.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from filelock import FileLock, Timeout

from data.config import SourceConfig
from data.shards.addresses import identity
from data.shards.index import Shard
from data.shards.sources import download
from fcmae.run.files import (
    file_sha256,
    move_into_place,
    sync,
    text_sha256,
    write_json,
    writing,
)
from fcmae.run.json_files import read_json
from fcmae.run.terminal import say
from fcmae.run.waiting import waiting

STARTED = time.time()  # of this process, and of workers that it forks
WAIT = 0.2  # seconds after which a shard asks again for room

Facts = tuple[int, ...]


class Unchecked(Exception):
    """Nothing says that a copy was found whole since the start, as it lies there."""


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
    file = open_checked(copy)
    if file is not None:
        return file
    with locked(Path(f"{copy}.lock")):
        file = open_checked(copy)  # another process may have fetched or hashed it
        if file is not None:
            return file
        with waiting("verifying copies of shards"):
            whole = copy.exists() and check_copy(copy, shard)
        if whole:
            return os.open(copy, os.O_RDONLY)
        return fetch(shard, copy, config)


def fetch(shard: Shard, copy: Path, config: SourceConfig) -> int:
    """Fetch a shard, whose lock is held, and open its copy.

    Raises:
        ValueError, OSError: See `open_cached`.
    """
    limit = config.cache_gb * 1e9
    if shard.size > limit:
        raise ValueError(
            f"shard {shard.url} has {shard.size} bytes and data.source.cache_gb={config.cache_gb}"
            " holds less; raise it, or take data.source.read range"
        )
    partial = copy.with_suffix(".part")
    with waiting("waiting for room in the cache"):
        while not reserve(partial, shard.size, limit):
            time.sleep(WAIT)
    try:
        with waiting("fetching shards", shard.size, "B") as wait:
            sha256 = download(shard.url, shard.size, partial, config, wait)
        if shard.sha256 and sha256 != shard.sha256:
            raise ValueError(
                f"shard {shard.url} has SHA-256 {sha256}, its index says {shard.sha256}; it was"
                " replaced or damaged: restore it, or index it again"
            )
        file = os.open(partial, os.O_RDONLY)  # first: once it has its name it may be removed
        with writing(copy, partial):
            sync(partial)  # which may take long, and others wait for room
            with locked(room_of(partial)):  # a file that is renamed may be missed in a list
                move_into_place(partial, copy)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    write_sum(copy, sha256, facts_of(file))
    return file


def reserve(partial: Path, size: int, limit: float) -> bool:
    """Make a file of `size` bytes to fetch into, if all files then take at most `limit` bytes.

    The least recently used copies go for it, and what killed processes left. A file that a process
    is fetching is locked, and stays.

    Returns:
        Whether there was room. Without, nothing that is used was removed.
    """
    with locked(room_of(partial)):
        partial.unlink(missing_ok=True)  # its lock is held by this process
        fetched = 0
        copies: list[tuple[int, int, Path]] = []
        for path in partial.parent.iterdir():
            with suppress(FileNotFoundError):  # copies that are damaged, and parts, may go
                if path.suffix == ".tar":
                    copies.append((last_used(path), path.stat().st_size, path))
                elif path.suffix == ".part":
                    fetched += 0 if remove_left(path) else path.stat().st_size
        if fetched + size > limit:
            return False
        total = fetched + size + sum(taken for _, taken, _ in copies)
        for _, taken, path in sorted(copies):
            if total <= limit:
                break
            path.unlink(missing_ok=True)
            sum_of(path).unlink(missing_ok=True)
            total -= taken
        with writing(partial), partial.open("wb") as file:
            file.truncate(size)
    return True


def room_of(file: Path) -> Path:
    """The lock of a cache under which room is made, and files in it get their names."""
    return file.parent / "room.lock"


def remove_left(partial: Path) -> bool:
    """Remove a part that a process was fetching, if it was killed, and say whether it was."""
    with suppress(Timeout), FileLock(f"{partial.with_suffix('.tar')}.lock", blocking=False):
        partial.unlink(missing_ok=True)
        return True
    return False


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


def open_checked(copy: Path) -> int | None:
    """Open a copy that was found whole since the start, and mark it as used now; None otherwise."""
    try:
        file = os.open(copy, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        require_checked(copy, facts_of(file))
    except Unchecked:
        os.close(file)
        return None
    with suppress(FileNotFoundError):  # another process is removing the copy
        os.utime(sum_of(copy))
    return file


def check_copy(copy: Path, shard: Shard) -> bool:
    """Hash a copy, whose lock is held, and remove it with a word if it is not as it was fetched."""
    sha256 = shard.sha256 or str(read_sum(copy).get("sha256"))
    with suppress(OSError), copy.open("rb") as file:  # a disk may fail
        facts = facts_of(file.fileno())
        if file_sha256(copy) == sha256:
            write_sum(copy, sha256, facts)
            return True
    say(
        f"the copy of {shard.url} in the cache, {copy}, is damaged: it is fetched again",
        error=True,
    )
    copy.unlink(missing_ok=True)
    return False


def facts_of(file: int) -> Facts:
    """What changes when somebody writes to an open file: its inode, its size and its times."""
    status = os.fstat(file)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=100_000)
def require_checked(copy: Path, facts: Facts) -> None:
    """Check that a copy with these facts was found whole since the start, once for each process.

    Raises:
        Unchecked: It was not.
    """
    known = read_sum(copy)
    checked = known.get("checked")
    lately = isinstance(checked, float) and STARTED <= checked <= time.time()
    if not lately or known.get("facts") != list(facts):
        raise Unchecked(copy)


def read_sum(copy: Path) -> dict[str, object]:
    """Read what is known of a copy: `sha256`, `facts` and when it was `checked`; {} if nothing."""
    with suppress(OSError, ValueError):
        return read_json(sum_of(copy), dict)
    return {}


def write_sum(copy: Path, sha256: str, facts: Facts) -> None:
    """Record that a copy has this SHA-256 as long as it has these facts.

    Raises:
        OSError: The cache cannot be written.
    """
    write_json(sum_of(copy), {"sha256": sha256, "facts": facts, "checked": time.time()})


def sum_of(copy: Path) -> Path:
    """The file with what is known of a copy; its time tells when the copy was used."""
    return copy.parent.with_name("sums") / f"{copy.stem}.json"


def last_used(copy: Path) -> int:
    """When a copy was used, in ns."""
    with suppress(FileNotFoundError):
        return sum_of(copy).stat().st_mtime_ns
    return copy.stat().st_mtime_ns


def rename_cached(old: Shard, new: Shard, config: SourceConfig) -> None:
    """Rename the copy of a shard whose SHA-256 became known only after it was fetched."""
    before, after = cached_path(old, config), cached_path(new, config)
    with locked(room_of(before)), suppress(FileNotFoundError):  # it left the cache already
        before.replace(after)
        sum_of(before).unlink()


def cached_path(shard: Shard, config: SourceConfig) -> Path:
    """Where the cache keeps this version of a shard."""
    version = shard.sha256 or shard.version
    name = text_sha256(f"{identity(shard.url)} {shard.size} {version}")[:24]
    return config.cache.expanduser() / "shards" / f"{name}.tar"
