"""The bytes of remote shards, read through fsspec: `http(s)://`, `s3://`, `gs://` and `hf://`.

A read that fails on the way (a dropped connection, a server that stalls or is busy, an answer cut
short) is tried again after a pause that doubles each time. A failure that will not go away (a
missing file, missing rights) is raised at once.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from data.config import SourceConfig

T = TypeVar("T")

EXTRAS = {"http": "http", "https": "http", "s3": "s3", "gs": "gs", "gcs": "gs"}
# where file systems keep the version of a file: S3 and http, gs, s3, http, hf
VERSIONS = ("ETag", "etag", "mtime", "LastModified", "Last-Modified", "blob_id")
LONGEST_PAUSE = 60.0  # seconds between two attempts


@dataclass(frozen=True)
class RemoteInfo:
    """The size of a remote file in bytes, and its version, which is "" if the server gives none."""

    size: int
    version: str


def is_remote(url: str) -> bool:
    """Whether `url` is a URL, and not a path."""
    return "://" in url


def info(url: str, config: SourceConfig) -> RemoteInfo:
    """The size and version of a remote file.

    Raises:
        OSError, ModuleNotFoundError: See `read_range`.
    """

    def ask() -> RemoteInfo:
        answer = file_system(url, config).info(url)
        version = next((answer[key] for key in VERSIONS if answer.get(key)), "")
        if answer.get("size") is None:
            raise OSError("the server does not tell the size")
        return RemoteInfo(int(answer["size"]), str(version))

    return with_retries(ask, url, config)


def read_range(url: str, start: int, end: int, config: SourceConfig) -> bytes:
    """Read the bytes `start` to `end` (exclusive) of a remote file.

    Raises:
        FileNotFoundError, PermissionError: The server says so; there is no second attempt.
        OSError: All `config.attempts` failed. The text names the URL and the last cause.
        ModuleNotFoundError: The package that reads such URLs is not installed.
        ValueError: There is no such kind of URL, or `config.attempts` is below 1.
    """

    def get() -> bytes:
        content = file_system(url, config).cat_file(url, start=start, end=end)
        if len(content) != end - start:
            raise OSError(f"{len(content)} of {end - start} bytes came")
        return content

    return with_retries(get, url, config)


def read_all(url: str, config: SourceConfig) -> bytes:
    """Read all bytes of a remote file, which should be a small one.

    Raises:
        OSError, ModuleNotFoundError: See `read_range`.
    """
    return with_retries(lambda: file_system(url, config).cat_file(url), url, config)


def download(url: str, size: int, to: Path, config: SourceConfig) -> None:
    """Fetch a remote file of `size` bytes to the path `to`, which is left incomplete on an error.

    Raises:
        OSError, ModuleNotFoundError: See `read_range`.
    """

    def get() -> None:
        file_system(url, config).get_file(url, str(to))
        if to.stat().st_size != size:
            raise OSError(f"{to.stat().st_size} of {size} bytes came")

    with_retries(get, url, config)


def file_system(url: str, config: SourceConfig) -> Any:
    """The file system of fsspec for a URL.

    fsspec keeps one for each process and thread, so forked workers do not share connections.
    """
    scheme = urlsplit(url).scheme
    options: dict[str, Any] = {}
    try:
        if scheme in ("http", "https", "gs", "gcs"):
            import aiohttp

            limits = aiohttp.ClientTimeout(
                total=None, sock_connect=config.timeout, sock_read=config.timeout
            )
            if scheme.startswith("http"):
                options = {"client_kwargs": {"timeout": limits}}
            else:
                options = {"requests_timeout": limits}
        elif scheme == "s3":
            limits = {"connect_timeout": config.timeout, "read_timeout": config.timeout}
            options = {"config_kwargs": {**limits, "retries": {"max_attempts": 1}}}
        return fsspec.filesystem(scheme, **options, use_listings_cache=False)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        way_out = f"pip install 'fcmae[{extra}]'" if extra else "fsspec names the package above"
        raise ModuleNotFoundError(f"{url}: {error}; {way_out}") from error
    except ValueError as error:  # fsspec knows no such scheme
        raise ValueError(f"{url}: {error}; known are http(s), s3, gs and hf") from error


def with_retries(attempt: Callable[[], T], url: str, config: SourceConfig) -> T:
    """Call `attempt` until it succeeds, at most `config.attempts` times."""
    for number in range(1, config.attempts + 1):
        try:
            return attempt()
        except (FileNotFoundError, PermissionError, ModuleNotFoundError, ValueError):
            raise
        except Exception as error:  # each file system raises errors of its own
            status = getattr(error, "status", None)  # of aiohttp
            hopeless = isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
            if hopeless or number == config.attempts:
                way_out = "data.source.attempts or data.source.timeout can be raised"
                raise OSError(
                    f"{url} could not be read in {number} attempts"
                    f" ({type(error).__name__}: {error}); check the URL, your rights to it and the"
                    f" server{'' if hopeless else '; ' + way_out}"
                ) from error
            pause = min(config.backoff * 2 ** (number - 1), LONGEST_PAUSE)
            time.sleep(pause * random.uniform(0.5, 1))  # so that processes do not all ask at once
    raise ValueError(f"data.source.attempts={config.attempts} must be at least 1")
