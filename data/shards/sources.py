"""The bytes of a shard, wherever it lies: read in place, or from afar through fsspec.

`http(s)://`, `s3://`, `gs://` and `hf://` are fsspec's. What goes wrong on the way (a dropped
connection, a server that stalls or is busy, an answer cut short) is tried again, with pauses that
double; what trying again cannot help (a file that is not there, a lack of rights) ends at once.
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
# what file systems call it: S3 and http, gs, s3, http, hf
VERSIONS = ("ETag", "etag", "mtime", "LastModified", "Last-Modified", "blob_id")
LONGEST_PAUSE = 60.0  # seconds between two attempts


@dataclass(frozen=True)
class RemoteInfo:
    """Size in bytes, and what the server gives to tell versions apart ("" for nothing)."""

    size: int
    version: str


def is_remote(url: str) -> bool:
    """Whether this is a URL and no path."""
    return "://" in url


def info(url: str, config: SourceConfig) -> RemoteInfo:
    """Size and version of a remote file; raises as `read_range`."""

    def ask() -> RemoteInfo:
        found = _file_system(url, config).info(url)
        version = next((found[key] for key in VERSIONS if found.get(key)), "")
        if found.get("size") is None:
            raise OSError("the server does not tell the size")
        return RemoteInfo(int(found["size"]), str(version))

    return _persistently(ask, url, config)


def read_range(url: str, start: int, end: int, config: SourceConfig) -> bytes:
    """Bytes `start` to `end` of a remote file.

    Raises:
        FileNotFoundError, PermissionError: at once.
        OSError: after `config.attempts` failures; names the URL and the last cause.
        ModuleNotFoundError: the driver's package is missing.
    """

    def get() -> bytes:
        content = _file_system(url, config).cat_file(url, start=start, end=end)
        if len(content) != end - start:
            raise OSError(f"{len(content)} of {end - start} bytes came")
        return content

    return _persistently(get, url, config)


def read_all(url: str, config: SourceConfig) -> bytes:
    """A whole remote file, a small one; raises as `read_range`."""
    return _persistently(lambda: _file_system(url, config).cat_file(url), url, config)


def download(url: str, size: int, to: Path, config: SourceConfig) -> None:
    """Fetch a remote file of `size` bytes; raises as `read_range`, leaving `to` incomplete."""

    def get() -> None:
        _file_system(url, config).get_file(url, str(to))
        if to.stat().st_size != size:
            raise OSError(f"{to.stat().st_size} of {size} bytes came")

    _persistently(get, url, config)


def _file_system(url: str, config: SourceConfig) -> Any:
    """fsspec's; it keeps one for each process and thread, so that forked workers have their own."""
    scheme = urlsplit(url).scheme
    options: dict[str, Any] = {}
    try:
        if scheme in ("http", "https", "gs", "gcs"):
            import aiohttp

            limits = aiohttp.ClientTimeout(
                total=None, sock_connect=config.timeout, sock_read=config.timeout
            )
            http = scheme.startswith("http")
            options = (
                {"client_kwargs": {"timeout": limits}} if http else {"requests_timeout": limits}
            )
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


def _persistently(attempt: Callable[[], T], url: str, config: SourceConfig) -> T:
    for number in range(1, config.attempts + 1):
        try:
            return attempt()
        except (FileNotFoundError, PermissionError, ModuleNotFoundError, ValueError):
            raise
        except Exception as error:  # each driver has its own; what is no answer is tried again
            status = getattr(error, "status", None)  # aiohttp's
            hopeless = isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
            if hopeless or number == config.attempts:
                way_out = "data.source.attempts or data.source.timeout can be raised"
                raise OSError(
                    f"{url} could not be read in {number} attempts"
                    f" ({type(error).__name__}: {error}); check the URL, your rights to it and the"
                    f" server{'' if hopeless else '; ' + way_out}"
                ) from error
            pause = min(config.backoff * 2 ** (number - 1), LONGEST_PAUSE)
            time.sleep(pause * random.uniform(0.5, 1))  # so that processes do not knock in step
    raise ValueError(f"data.source.attempts={config.attempts} must be at least 1")
