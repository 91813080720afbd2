"""The headers of a tar, of whose numbers and names none is believed.

Sources: the ustar and pax interchange formats of POSIX.1-2001, and "Basic Tar Format" in the manual
of GNU tar. Headers of V7, ustar, GNU (long names, numbers in base 256) and PAX are read.
"""

import zlib
from typing import NamedTuple

BLOCK = 512  # bytes; a tar is a sequence of blocks of this size and ends with blocks of zeros
GNU = b"ustar  "  # the magic of GNU, which has times and not a name's first part behind byte 345
DIGITS = 19  # of a number in a PAX record; more are no size of a file


class DamagedTar(ValueError):
    """The bytes are no tar, or not the whole of one."""


class Header(NamedTuple):
    """One block before a member, or before what a header says in addition.

    Attributes:
        name: The name.
        type: One byte, such as b"0" for a file.
        size: The number of bytes that follow, in blocks.
        target: Where a link leads.
        extended: Whether more blocks follow first, with the rest of a map of holes.
    """

    name: str
    type: bytes
    size: int
    target: str
    extended: bool


def read_header(block: bytes, at: int) -> Header:
    """Read the header in a block.

    Args:
        block: The 512 bytes.
        at: Where they lie, for errors.

    Raises:
        DamagedTar: They are no header, or the size is no number from 0 on.
    """
    if len(block) < BLOCK or not has_checksum(block):
        raise DamagedTar(f"byte {at} begins neither a tar header nor the end of the archive")
    size = number(block[124:136])
    if size is None:
        raise DamagedTar(f"the header at byte {at} has the size {block[124:136]!r}, which is none")
    name = block[:100].partition(b"\0")[0]
    kind = block[156:157]
    if kind == b"\0" and name.endswith(b"/"):
        kind = b"5"  # a directory of V7
    if block[345] and block[257:264] != GNU:
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    target = decoded(block[157:257].partition(b"\0")[0]) if block[157] else ""
    return Header(decoded(name), kind, size, target, kind == b"S" and block[482] != 0)


def has_checksum(block: bytes) -> bool:
    """Whether a block has the sum of all its bytes, where those of the sum count as blanks.

    Some programs have taken bytes from 128 on for negative numbers.
    """
    stored = number(block[148:156])
    total = total_of(block) - sum(block[148:156]) + 8 * ord(" ")
    if stored == total or stored is None:
        return stored is not None
    return stored == total - 256 * sum(byte > 127 for byte in block[:148] + block[156:])


def total_of(block: bytes) -> int:
    """The sum of the bytes of a block.

    The lower half of an Adler-32 checksum is one more, modulo 65521. It takes a thirtieth of the
    time of `sum`, and as half of a header is zeros as a rule, the other bytes add up to less.
    """
    return (zlib.adler32(block) & 0xFFFF) - 1 if block.count(0) >= BLOCK // 2 else sum(block)


def number(field: bytes) -> int | None:
    """The number in a field: octal digits, or in base 256; None if it is negative or no number."""
    digits = field.rstrip(b"\0 ")
    if not digits.isdigit():  # blanks before them, something behind zeros, or nothing
        if field[:1] == b"\x80":
            return int.from_bytes(field[1:], "big")
        digits = field.partition(b"\0")[0].strip()
    try:
        return int(digits, 8) if digits.isdigit() else None if digits else 0
    except ValueError:  # an 8 or a 9
        return None


def decoded(name: bytes) -> str:
    """A name as text; bytes that are no UTF-8 are written as \\xNN, which can be shown and kept."""
    return name.decode("utf-8", "backslashreplace")


def read_records(content: bytes, at: int) -> dict[str, str]:
    """Read the records `LENGTH KEY=VALUE` and a line feed, which a PAX header consists of.

    Args:
        content: The records.
        at: Where the header lies, for errors.

    Raises:
        DamagedTar: They are no such records, a size is no number, or a name has a zero byte.
    """
    found: dict[str, str] = {}
    damaged = DamagedTar(f"the PAX header at byte {at} is damaged")
    first = 0
    while first < len(content):
        blank = content.find(b" ", first, first + DIGITS + 1)
        digits = content[first:blank]
        if blank < 0 or not digits.isdigit():
            raise damaged
        end = first + int(digits)
        sign = content.find(b"=", blank, end)
        if end > len(content) or sign < blank + 2 or content[end - 1 : end] != b"\n":
            raise damaged
        found[decoded(content[blank + 1 : sign])] = decoded(content[sign + 1 : end - 1])
        first = end
    size = found.get("size", "0") or "0"
    if not (size.isascii() and size.isdigit() and len(size) <= DIGITS):
        raise DamagedTar(f"the PAX header at byte {at} has the size {size!r}, which is none")
    if any("\0" in found.get(name, "") for name in ("path", "linkpath")):
        raise DamagedTar(f"the PAX header at byte {at} has a name with a zero byte")
    return found
