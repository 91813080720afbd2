"""The bytes of remote shards, read through fsspec: `http(s)://`, `s3://`, `gs://` and `hf://`.

A read that fails on the way (a dropped connection, a server that stalls or is busy, an answer cut
short) is tried again after a pause that doubles each time, or that the server asks for. A failure
that will not go away (a missing file, missing rights) is raised at once.
"""

import hashlib
import random
import time
from collections.abc import Callable
from json import JSONDecodeError
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec.asyn import sync

from data.config import SourceConfig
from data.shards import http
from data.shards.addresses import whole, without_query
from data.shards.http import RemoteInfo
from fcmae.run.secrets import public
from fcmae.run.waiting import Wait

T = TypeVar("T")

EXTRAS = {"http": "http", "https": "http", "s3": "s3", "gs": "gs", "gcs": "gs"}
# where file systems keep the version of a file: S3, gs, s3, hf
VERSIONS = ("ETag", "etag", "mtime", "LastModified", "blob_id")
LONGEST_PAUSE = 60.0  # seconds between two attempts
LONGEST_CAUSE = 300  # characters of what a driver says of a failure
PIECE = 2**26  # bytes of a shard that are asked for at a time, where it is not sent as one stream
RIGHTS = (
    "you have no right to it: check the URL, and the credentials in it, in the environment or in"
    " ~/.netrc; a signed URL may have expired"
)


def info(url: str, config: SourceConfig) -> RemoteInfo:
    """The size and version of a remote file.

    Raises:
        OSError, ModuleNotFoundError: See `read_range`.
    """

    def ask() -> RemoteInfo:
        if is_http(url):
            return over_http(http.ask_size, url, config)
        found = call("info", url, 0, config)
        version = next((found[key] for key in VERSIONS if found.get(key)), "")
        if found.get("size") is None:
            raise OSError("the server does not tell the size")
        return RemoteInfo(int(found["size"]), str(version))

    return with_retries(ask, url, config)


def read_range(url: str, start: int, end: int, config: SourceConfig, version: str = "") -> bytes:
    """Read the bytes `start` to `end` (exclusive) of a remote file.

    Args:
        url: The file.
        start: The first byte.
        end: The byte behind the last one.
        config: How often and how long is waited.
        version: Which version it is to be, as `info` gave it, where a web server tells it.

    Raises:
        FileNotFoundError, PermissionError: The server says so; there is no second attempt.
        OSError: All `config.attempts` failed. The text names the URL and the last cause.
        ModuleNotFoundError: The package that reads such URLs is not installed.
        ValueError: There is no such kind of URL, or `config.attempts` is below 1.
    """

    def get() -> bytes:
        if is_http(url):
            return over_http(http.get_range, url, start, end, version, config)
        return get_piece(url, start, end, config)

    return with_retries(get, url, config)


def read_all(url: str, most: int, config: SourceConfig) -> bytes:
    """Read all bytes of a remote file, which should be a small one.

    A signature in the query of a URL may be good for the shards alone. Then the file beside them is
    asked for without it, too, and counts as missing where that is refused.

    Raises:
        ValueError: The file has more than `most` bytes.
        OSError, ModuleNotFoundError: See `read_range`.
    """
    if not is_http(url):
        size = info(url, config).size
        if size > most:
            raise ValueError(f"{url} has more than {most} bytes, which none of ours has")
        return read_range(url, 0, size, config) if size else b""
    try:
        return with_retries(lambda: over_http(http.get_small, url, most, config), url, config)
    except PermissionError as error:
        if "?" not in whole(url):
            raise
        try:
            return read_all(without_query(url), most, config)
        except PermissionError:
            raise FileNotFoundError(str(error)) from None


def download(url: str, size: int, to: Path, config: SourceConfig, wait: Wait) -> str:
    """Fetch a remote file of `size` bytes into the file `to`, which is there and has this size.

    What came is counted in `wait`.

    Returns:
        The SHA-256 of what came, as 64 hexadecimal digits.

    Raises:
        OSError, ModuleNotFoundError: See `read_range`. Or `to` cannot be written.
    """

    def get() -> str:
        with to.open("r+b") as file:
            if is_http(url):
                return over_http(save, url, size, file, wait, config)
            sha256 = hashlib.sha256()
            for start in range(0, size, PIECE):
                piece = get_piece(url, start, min(start + PIECE, size), config)
                sha256.update(piece)
                write(file, piece)
                wait.advance(len(piece))
            return sha256.hexdigest()

    return with_retries(get, url, config)


async def save(
    session: Any, url: str, size: int, file: BinaryIO, wait: Wait, config: SourceConfig
) -> str:
    """Write what a web server sends into a file, and compute its SHA-256; for `download`."""
    sha256 = hashlib.sha256()
    came = 0
    async with http.get_whole(session, url, size, config) as blocks:
        async for block in blocks:
            came += len(block)
            http.refuse_more(came, size)
            sha256.update(block)
            write(file, block)
            wait.advance(len(block))
    if came != size:
        raise OSError(f"{came} of {size} bytes came")
    return sha256.hexdigest()


class CannotWrite(OSError):
    """The disk of the cache failed, which is not the server's fault."""


def write(file: BinaryIO, block: bytes) -> None:
    """Write to a file of the cache.

    Raises:
        CannotWrite: The disk is full, or fails.
    """
    try:
        file.write(block)
        file.flush()
    except OSError as error:
        raise CannotWrite(
            f"{file.name} cannot be written ({error.strerror}): make room, give a smaller"
            " --data.source.cache_gb, or name another disk by --data.source.cache"
        ) from error


def get_piece(url: str, start: int, end: int, config: SourceConfig) -> bytes:
    """Read a range of bytes from an object store, once."""
    content = call("cat_file", url, end - start, config, start=start, end=end)
    if len(content) != end - start:
        raise OSError(f"{len(content)} of {end - start} bytes came")
    return content


def is_http(url: str) -> bool:
    """Whether a web server is asked for a URL."""
    return urlsplit(url).scheme in ("http", "https")


def over_http(request: Callable[..., Any], url: str, *args: Any) -> Any:
    """Run a coroutine of `data.shards.http`, whose last argument is the config, on a connection."""
    system = file_system(url, args[-1])

    async def run() -> Any:
        return await request(await system.set_session(), url, *args)

    return sync(system.loop, run)


def call(method: str, url: str, size: int, config: SourceConfig, **options: Any) -> Any:
    """Call a method of the file system of an object store, whose answer has about `size` bytes."""
    system = file_system(url, config)
    if not system.async_impl:
        return getattr(system, method)(whole(url), **options)
    seconds = min(config.total_timeout, config.timeout + size / (config.min_speed * 1000))
    function = getattr(system, f"_{method}")
    return sync(system.loop, function, whole(url), timeout=seconds, **options)


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
                # trust_env: proxies of the environment, and the passwords in ~/.netrc
                options = {
                    "client_kwargs": {
                        "timeout": limits,
                        "trust_env": True,
                        "auto_decompress": False,
                    }
                }
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
    file_system(url, config)  # which fails for ever, if it does
    for number in range(1, config.attempts + 1):
        try:
            return attempt()
        except CannotWrite:
            raise
        except Exception as error:  # each file system raises errors of its own
            # of a driver's own error no more is kept: it may show the URL with its password
            told = in_a_line(error)
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError(f"{url} does not exist on the server ({told})") from None
            failed = f"{url} could not be read in {number} attempts ({told})"
            if lacks_rights(error):
                raise PermissionError(f"{failed}: {RIGHTS}") from None
            if isinstance(error, ValueError) and not isinstance(
                error, JSONDecodeError | UnicodeError
            ):
                raise ValueError(f"{url}: {told}") from None
            if number == config.attempts:
                raise OSError(
                    f"{failed}; check the URL, your rights to it and the server;"
                    " data.source.attempts or data.source.timeout can be raised"
                ) from None
            pause = min(config.backoff * 2 ** (number - 1), LONGEST_PAUSE)
            pause *= random.uniform(0.5, 1)  # so that processes do not all ask at once
            asked = error.pause if isinstance(error, http.Refused) else 0.0
            time.sleep(max(pause, min(asked, LONGEST_PAUSE)))
    raise ValueError(f"data.source.attempts={config.attempts} must be at least 1")


def in_a_line(error: Exception) -> str:
    """What an error says, and its kind if it is a driver's, in one line that can be printed."""
    ours = type(error).__module__ in ("builtins", http.__name__)
    kind = type(error).__name__
    told = getattr(error, "strerror", None) or str(error) or "it took too long"  # as time-outs say
    line = " ".join(public(told if ours else f"{kind}: {told}").split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line[:LONGEST_CAUSE])


def lacks_rights(error: Exception) -> bool:
    """Whether an error says that credentials are missing, wrong or not enough."""
    facts = vars(error)
    return (
        isinstance(error, PermissionError)
        or getattr(facts.get("response"), "status_code", None) in (401, 403)
        or str(facts.get("code")) in ("401", "403")
        or type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError")
        or str(error).startswith("Forbidden: ")  # of gcsfs
    )
