"""The directories of a TIFF (IFDs), walked before a library believes what they declare.

Source: TIFF 6.0, section 2, and the offsets of 64 bits of BigTIFF.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MOST_DIRECTORIES = 1000  # of pages, and of what they refer to
MOST_TAGS = 4096  # in a directory
SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # by type
INSIDE = (330, 34665, 34853, 40965)  # the tags of directories: SubIFDs, EXIF, GPS, interoperability


@dataclass(frozen=True)
class Layout:
    """How the numbers of a TIFF are stored: the offset of a directory, and its parts."""

    start: int
    count: struct.Struct
    entry: struct.Struct  # tag, type, count, and the value or its offset
    offset: struct.Struct


def layout_of(encoded: bytes) -> Layout:
    """The layout of a TIFF, by its first four bytes."""
    order = "<" if encoded.startswith(b"II") else ">"
    if encoded[2:4] in (b"+\0", b"\0+"):
        formats = ("Q", "HHQ8s", "Q")
        return Layout(8, *(struct.Struct(order + text) for text in formats))
    return Layout(4, *(struct.Struct(order + text) for text in ("H", "HHI4s", "I")))


def check_directories(encoded: bytes) -> None:
    """Check that the directories of a TIFF end, and that their tags fit into the file.

    Raises:
        ValueError: They form a circle; there are more than MOST_DIRECTORIES, or more than MOST_TAGS
            in one; or tags hold more bytes than the file has.
    """
    layout = layout_of(encoded)
    room = len(encoded)
    seen = set[int]()
    (first,) = layout.offset.unpack_from(encoded, layout.start)
    waiting = [first]
    while waiting:
        at = waiting.pop()
        pages = set[int]()
        while 0 < at <= len(encoded) - layout.count.size and at not in seen:
            seen.add(at)
            pages.add(at)
            if len(seen) > MOST_DIRECTORIES:
                raise ValueError(
                    f"it has more than {MOST_DIRECTORIES} directories: save one image a file"
                )
            (tags,) = layout.count.unpack_from(encoded, at)
            at += layout.count.size
            end = at + tags * layout.entry.size
            if tags > MOST_TAGS or end + layout.offset.size > len(encoded):
                raise ValueError(f"a directory of {tags} tags does not fit into the file")
            for tag, held, inside in tags_of(encoded[at:end], layout, len(encoded)):
                room -= held
                if room < 0:
                    raise ValueError(f"its tags, up to {tag}, hold more bytes than the file has")
                if tag in INSIDE:
                    waiting += offsets_in(encoded, inside, held, layout)
            (at,) = layout.offset.unpack_from(encoded, end)
        if at in pages:
            raise ValueError("its directories form a circle")


def tags_of(entries: bytes, layout: Layout, size: int) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield each tag of a directory, the bytes it holds elsewhere, and their offset or the value.

    Args:
        entries: The entries of the directory.
        layout: See `layout_of`.
        size: The number of bytes of the file.

    Raises:
        ValueError: A tag holds bytes beyond the end of the file.
    """
    for tag, kind, count, value in layout.entry.iter_unpack(entries):
        held = SIZES.get(kind, 1) * count
        if held <= len(value):
            yield tag, 0, value
            continue
        (offset,) = layout.offset.unpack(value)
        if offset + held > size:
            raise ValueError(f"tag {tag} declares {held} bytes, beyond the end of the file")
        yield tag, held, offset


def offsets_in(encoded: bytes, inside: int | bytes, held: int, layout: Layout) -> list[int]:
    """The offsets of directories that a tag holds."""
    content = inside if isinstance(inside, bytes) else encoded[inside : inside + held]
    whole = len(content) // layout.offset.size * layout.offset.size
    return [offset for (offset,) in layout.offset.iter_unpack(content[:whole])]
