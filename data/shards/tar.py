"""The members of a tar, found header by header: in bounded time and memory, whoever made it."""

from collections.abc import Callable, Iterator
from io import BufferedIOBase
from typing import Literal, NamedTuple

from data.shards.headers import BLOCK, DamagedTar, Header, decoded, read_header, read_records

EXTENDING = b"LKxXg"  # types of headers that say more of the next one, or of all others
LONGEST = 2**20  # bytes of such a header, which holds names and attributes
LARGEST = 2**32  # bytes of a sample, which is read as a whole
INFLATED = 2**29  # bytes of a decompressed sample: 89 megapixels of 16 bits and 3 channels
PADDING = 2**26  # bytes of zeros behind the end; programs fill a record of some kB
FILES = b"0\x007"
BARE = b"123456"  # links, devices and directories, behind which nothing lies, whatever their size
LEFT_OUT = b"3456DVAEI"  # these and what has no content of a file: lists, labels, attributes
SPARSE = "GNU.sparse."
OF_ONE = ("path", "linkpath", "size")  # records that cannot be meant for all members
ZEROS = bytes(BLOCK)

Read = Callable[[int, int], bytes]
Kind = Literal["file", "left out", "link", "sparse", "unknown"]


class Member(NamedTuple):
    """A member of a tar.

    Attributes:
        name: The name. Bytes that are no UTF-8 are written as \\xNN.
        kind: "file" for a regular file, and "left out" for what has no content, such as a folder.
            The others have content that is elsewhere or would be read wrong.
        why: What is wrong with one of these others, and the way out.
        offset: The first byte of its headers.
        start: The first byte of its content.
        size: The number of bytes of its content.
        after: The first byte behind its content, which is filled up to whole blocks.
    """

    name: str
    kind: Kind
    why: str
    offset: int
    start: int
    size: int
    after: int


def reader(file: BufferedIOBase) -> Read:
    """How an open file is read: the bytes from a place on, of which there are fewer at its end."""
    return lambda at, count: file.read(count) if file.seek(at) == at else b""


def members_of(read: Read, length: int | None) -> Iterator[Member]:
    """Yield the members of a tar, up to the end of the file or the first block of zeros.

    Args:
        read: Gives the bytes from a place on. Places only grow, if the caller's do.
        length: The number of bytes in all; None if they are decompressed while they are read, where
            no member may have more than INFLATED.

    Raises:
        DamagedTar: A header is damaged, or claims more bytes than there are.
    """
    at = 0
    while True:
        first = at
        said: dict[str, str] = {}
        while (header := header_at(read, at)) is not None and header.type in EXTENDING:
            said = extension(read, at, header) | said
            at += BLOCK + blocks(header.size)
            if header.type == b"g":
                first = at if not said else first
        if header is None:
            if at > first:
                raise DamagedTar(f"it ends at byte {at}, behind a header that has no member")
            return
        start = at + BLOCK
        more = header.extended
        while more:
            more = read(start, BLOCK)[504:505] not in (b"", b"\0")
            start += BLOCK
            if start - at > LONGEST:
                raise DamagedTar(f"the header at byte {at} has a map of more than {LONGEST} bytes")
        size, name = header.size, header.name
        if said:
            size = int(said.get("size") or size)
            name = said.get(f"{SPARSE}name") or said.get("path", "").rstrip("/") or name
        member = Member(
            name,
            *judged(header, said),
            first,
            start,
            size,
            start + (0 if header.type in BARE else blocks(size)),
        )
        if member.after > length if length is not None else size > INFLATED:
            bound = f"the file ends at byte {length}" if length is not None else "that is too many"
            raise DamagedTar(f"{member.name!r} at byte {at} claims {size} bytes, and {bound}")
        yield member
        at = member.after


def header_at(read: Read, at: int) -> Header | None:
    """The header at byte `at`; None at the end.

    Raises:
        DamagedTar: There is no header, and no end.
    """
    block = read(at, BLOCK)
    return None if not block or block == ZEROS else read_header(block, at)


def blocks(size: int) -> int:
    """The bytes that content of a size takes, in whole blocks."""
    return -(-size // BLOCK) * BLOCK


def extension(read: Read, at: int, header: Header) -> dict[str, str]:
    """What a header at byte `at` says of the next one, as PAX records.

    Raises:
        DamagedTar: It is longer than LONGEST or the file, is damaged, or renames all members.
    """
    if header.size > LONGEST:
        raise DamagedTar(
            f"the header at byte {at} adds {header.size} bytes to another one, more than {LONGEST}"
        )
    content = read(at + BLOCK, header.size)
    if len(content) < header.size:
        raise DamagedTar(f"it ends within the header at byte {at}")
    if header.type in b"LK":
        return {"path" if header.type == b"L" else "linkpath": decoded(content.partition(b"\0")[0])}
    records = read_records(content, at)
    if header.type != b"g":
        return records
    if any(key in OF_ONE or key.startswith(SPARSE) for key in records):
        raise DamagedTar(f"the header at byte {at} gives all members one name or size")
    return {}


def judged(header: Header, said: dict[str, str]) -> tuple[Kind, str]:
    """The kind of a member, and what is wrong with it; "" for nothing."""
    if header.type in FILES and not said:
        return "file", ""
    if header.type == b"S" or any(key.startswith(SPARSE) for key in said):
        return "sparse", "is a file with holes, which the tar leaves out; write it without --sparse"
    if header.type in FILES:
        return "file", ""
    if header.type in b"12":
        kind = "hard" if header.type == b"1" else "symbolic"
        return "link", (
            f"is a {kind} link to {said.get('linkpath') or header.target!r} and has no content of"
            " its own; write the tar again with tar --dereference --hard-dereference"
        )
    if header.type in LEFT_OUT:
        return "left out", ""
    return "unknown", (
        f"is of the unknown type {header.type!r}; write the tar again, whole and of plain files"
    )


def check_end(read: Read, at: int) -> None:
    """Check that a tar ends where its members do, with blocks of zeros and nothing else.

    A file that ends right behind a member may be cut there, which cannot be told from a tar whose
    end was never written.

    Args:
        read: Gives the bytes from a place on.
        at: The first byte behind the last member.

    Raises:
        DamagedTar: The end is missing, or something else than zeros stands there or later.
    """
    if not read(at, BLOCK):
        raise DamagedTar(
            f"it ends at byte {at} after a whole member, without the two blocks of zeros"
            " that end an archive; if nothing is missing, add them: head -c 1024 /dev/zero >> FILE"
            if at
            else "it is empty"
        )
    later = at
    while block := read(later, 2**20):
        if block.strip(b"\0"):
            raise DamagedTar(
                f"the archive ends at byte {at} and more data follows, as in tars that were"
                " joined with cat; join them with tar --concatenate"
            )
        later += len(block)
        if later - at > PADDING:
            raise DamagedTar(f"more than {PADDING} zeros follow the end of the archive at {at}")
