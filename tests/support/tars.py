"""Headers and members of tars, right or wrong in any field."""

import itertools

from data.shards.headers import BLOCK


def with_sum(block: bytes, *, signed: bool = False) -> bytes:
    """A header with the checksum that it should have."""
    blank = block[:148] + b" " * 8 + block[156:]
    total = sum(byte - 256 * (signed and byte > 127) for byte in blank)
    return block[:148] + b"%06o\0 " % total + block[156:]


def header(
    name: bytes = b"a.png", kind: bytes = b"0", size: bytes | int = 0, link: bytes = b""
) -> bytes:
    """A header of ustar, whose size may be any twelve bytes."""
    number = size if isinstance(size, bytes) else b"%011o\0" % size
    block = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + number + b"0" * 11 + b"\0"
    block += bytes(8) + kind + link.ljust(100, b"\0") + b"ustar\x0000"
    return with_sum(block.ljust(BLOCK, b"\0"))


def member(
    name: bytes, content: bytes = b"", kind: bytes = b"0", size: bytes | int | None = None
) -> bytes:
    """A header and its content, whose size may be another one than the header says."""
    padding = bytes(-len(content) % BLOCK)
    return header(name, kind, len(content) if size is None else size) + content + padding


def base256(value: int) -> bytes:
    """A number of any size, as GNU tar stores it."""
    return (b"\x80" if value >= 0 else b"\xff") + (value % 2**88).to_bytes(11, "big")


def record(key: bytes, value: bytes) -> bytes:
    """A record of a PAX header."""
    rest = b" " + key + b"=" + value + b"\n"
    length = next(n for n in itertools.count() if n == len(rest) + len(str(n)))
    return str(length).encode() + rest
