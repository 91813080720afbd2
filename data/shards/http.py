"""Requests to web servers, bounded in time and in bytes, and what their answers mean.

Each function gives one attempt; `data.shards.sources` repeats those that fail on the way.
"""

import asyncio
import re
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

from data.config import SourceConfig
from data.shards.addresses import whole

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

BLOCK = 2**18  # bytes that are taken from a connection at a time
CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)")
# a URL of these characters alone is sent as it is: a signature may be one of its exact text
ENCODED = re.compile(r"[\w\-.~:/?#\[\]@!$&'()*+,;=%]*", re.ASCII)


@dataclass(frozen=True)
class RemoteInfo:
    """The size of a remote file in bytes, and its version, which is "" if the server gives none."""

    size: int
    version: str


class Refused(OSError):
    """A server answered with the status of an error that may pass; it asked for this pause in s."""

    def __init__(self, message: str, pause: float) -> None:
        super().__init__(message)
        self.pause = pause


class TooSlow(OSError):
    """A server took longer than it may; a TimeoutError would lose its text on its way."""


async def ask_size(session: "ClientSession", url: str, config: SourceConfig) -> RemoteInfo:
    """Ask for the size and the version of a file.

    Where HEAD does not tell the size, a request for the first byte does: many signed URLs are good
    for GET alone.

    Raises:
        FileNotFoundError, PermissionError: The server says so.
        OSError: It tells no size, or something else went wrong.
    """
    async with answer(session, "HEAD", url, config) as head:
        if head.status == 200 and head.content_length and not encoding_of(head, url):
            return RemoteInfo(head.content_length, version_of(head))
    async with answer(session, "GET", url, config, Range="bytes=0-0") as first:
        refuse(first, 200, 206, 416)
        refuse_encoded(first, url)
        _, size = range_of(first) if first.status != 200 else (None, first.content_length)
        if size is None:
            raise OSError("the server does not tell the size")
        return RemoteInfo(size, version_of(first))


async def get_range(
    session: "ClientSession", url: str, start: int, end: int, version: str, config: SourceConfig
) -> bytes:
    """Get the bytes `start` to `end` (exclusive) of the version of a file, or of any if it is "".

    Raises:
        FileNotFoundError, PermissionError: The server says so.
        OSError: The server sends no ranges, or others, or of another version.
    """
    async with answer(session, "GET", url, config, Range=f"bytes={start}-{end - 1}") as response:
        if response.status == 200:
            raise OSError("the server sends no parts of files: take data.source.read shard")
        refuse(response, 206)
        refuse_encoded(response, url)
        if range_of(response)[0] != (start, end):
            raise OSError(f"the server sends other bytes than {start} to {end - 1}")
        now = version_of(response)
        if version and now and now != version:
            raise OSError(
                f"the file was replaced: its version was {version!r} and is {now!r}; start again"
            )
        content = bytearray()
        async for block in body(response, config):
            content += block
            refuse_more(len(content), end - start)
    if len(content) != end - start:
        raise OSError(f"{len(content)} of {end - start} bytes came")
    return bytes(content)


async def get_small(session: "ClientSession", url: str, limit: int, config: SourceConfig) -> bytes:
    """Get a file of at most `limit` bytes, also where the server sends it compressed.

    Raises:
        FileNotFoundError, PermissionError: The server says so.
        ValueError: The file is larger.
        OSError: Something else went wrong.
    """
    async with answer(session, "GET", url, config) as response:
        refuse(response, 200)
        encoding = encoding_of(response, url)
        if encoding not in ("", "gzip", "x-gzip"):
            raise OSError(f"the server sends it encoded as {encoding!r}")
        unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16) if encoding else None
        content = bytearray()
        async for block in body(response, config):
            room = limit + 1 - len(content)
            content += unzip.decompress(block, room) if unzip else block[:room]
            if len(content) > limit:
                raise ValueError(f"it has more than {limit} bytes, which none of ours has")
        if unzip and not unzip.eof:
            raise OSError("its gzip stream ends early")
    return bytes(content)


@asynccontextmanager
async def get_whole(
    session: "ClientSession", url: str, size: int, config: SourceConfig
) -> AsyncIterator[AsyncIterator[bytes]]:
    """Give the blocks of a file of `size` bytes; not one more comes, and whoever takes them counts.

    Raises:
        FileNotFoundError, PermissionError: The server says so.
        OSError: The size is another, or something else went wrong.
    """
    async with answer(session, "GET", url, config) as response:
        refuse(response, 200)
        refuse_encoded(response, url)
        if response.content_length not in (None, size):
            raise OSError(f"the server sends {response.content_length} bytes instead of {size}")
        yield body(response, config)


@asynccontextmanager
async def answer(
    session: "ClientSession", method: str, url: str, config: SourceConfig, **headers: str
) -> AsyncIterator["ClientResponse"]:
    """Send a request and give the answer, whose headers have come.

    Raises:
        TooSlow: The headers, or the next bytes of the body, took longer than `config.timeout`, or
            all of it longer than `config.total_timeout`.
        Exception: Those of aiohttp; redirects that go on for ever or leave HTTP are among them.
    """
    from yarl import URL

    target = URL(whole(url), encoded=ENCODED.fullmatch(whole(url)) is not None)
    asked = {"Accept-Encoding": "identity", **headers}
    total = asyncio.timeout(config.total_timeout)
    first = asyncio.timeout(config.timeout)
    try:
        async with total:
            async with first:
                response = await session.request(method, target, headers=asked)
            try:
                yield response
            finally:
                response.close()  # one that was read to its end has left its connection open
    except TimeoutError as error:
        if total.expired():
            message = f"it took longer than data.source.total_timeout={config.total_timeout:g} s"
        elif first.expired():
            message = f"no answer came within {config.timeout:g} s"
        else:
            message = f"nothing came for {config.timeout:g} s"
        raise TooSlow(message) from error


async def body(response: "ClientResponse", config: SourceConfig) -> AsyncIterator[bytes]:
    """The body of an answer in blocks, as long as it comes at `config.min_speed` or more.

    Raises:
        TooSlow: It came slower.
    """
    began = time.monotonic()
    came = 0
    while block := await response.content.read(BLOCK):
        came += len(block)
        seconds = time.monotonic() - began
        if seconds > config.timeout and came < seconds * config.min_speed * 1000:
            raise TooSlow(f"{came} bytes in {seconds:.0f} s are slower than data.source.min_speed")
        yield block


def refuse(response: "ClientResponse", *wanted: int) -> None:
    """Raise the error that a status means, unless it is one of those that are wanted.

    Raises:
        FileNotFoundError, PermissionError: 404 and 410, or 401 and 403.
        Refused: Any other status.
    """
    status = response.status
    if status in wanted:
        return
    known = status in HTTPStatus._value2member_map_
    words = f"{status}: {HTTPStatus(status).phrase}" if known else str(status)
    if status in (404, 410):
        raise FileNotFoundError(words)
    if status in (401, 403):
        raise PermissionError(words)
    raise Refused(words, pause_of(response.headers.get("Retry-After", "")))


def refuse_more(came: int, wanted: int) -> None:
    """Raise an OSError where more bytes came than were wanted."""
    if came > wanted:
        raise OSError(f"more than the {wanted} bytes that were asked for came")


def pause_of(retry_after: str) -> float:
    """The seconds that a header Retry-After asks for, as a number or a date; 0 if it is neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        date = parsedate_to_datetime(retry_after)
        return max(0.0, (date - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def version_of(response: "ClientResponse") -> str:
    """What tells versions of a file apart; a proxy that compresses marks its ETag as weak."""
    headers = response.headers
    return headers.get("ETag", "").removeprefix("W/") or headers.get("Last-Modified", "")


def encoding_of(response: "ClientResponse", url: str) -> str:
    """How the server has compressed the body; "" where it has not.

    Some servers call a .tar.gz a tar that is compressed, and send it as it is.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    as_it_is = encoding in ("", "identity") or url.endswith(".gz")
    return "" if as_it_is else encoding


def refuse_encoded(response: "ClientResponse", url: str) -> None:
    """Raise an OSError where the server compresses a shard, whose bytes have other places then."""
    if encoding := encoding_of(response, url):
        raise OSError(f"the server sends it encoded as {encoding!r}; let it send files as they are")


def range_of(response: "ClientResponse") -> tuple[tuple[int, int] | None, int | None]:
    """The bytes that an answer has, start and end (exclusive), and the size of the file."""
    found = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if found is None:
        return None, None
    first, last, size = found.groups()
    span = None if first is None else (int(first), int(last) + 1)
    return span, None if size == "*" else int(size)
