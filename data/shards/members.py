"""The members of a tar: their headers, and the samples that their names make of them."""

import io
import tarfile
from collections.abc import Iterator

BLOCK = 512  # bytes: a tar is a sequence of blocks of this size, ended by blocks of zeros


def split_name(name: str) -> tuple[str, str] | None:
    """Split a member's name into key and lower-case suffix where webdataset does.

    That is the first dot of the last part: `a.b/c.d.PNG` gives `("a.b/c", "d.png")`. None for what
    belongs to no sample: names without a dot, hidden files (such as the `._` twins that macOS
    adds) and webdataset's own `__meta__` members.
    """
    directory, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    first = name.partition("/")[0]
    if (
        not stem
        or not suffix
        or (len(first) >= 4 and first.startswith("__") and first.endswith("__"))
    ):
        return None
    return f"{directory}{slash}{stem}", suffix.lower()


def plain_header(block: bytes) -> tuple[str, int] | None:
    """Name and size in the ustar header of a regular file; None for any other block.

    Source: POSIX.1-1988, the tar interchange format: numbers are octal, and the checksum is the sum
    of all bytes with its own eight taken as blanks.
    """
    try:
        checksum = sum(block) - sum(block[148:156]) + 8 * ord(" ")
        if block[156:157] not in b"0\0" or int(block[148:156].rstrip(b" \0"), 8) != checksum:
            return None
        size = int(block[124:136].rstrip(b" \0"), 8)
    except ValueError:
        return None
    name, prefix = (part.partition(b"\0")[0] for part in (block[:100], block[345:500]))
    full = prefix + b"/" + name if prefix else name
    return full.decode("utf-8", "surrogateescape"), size


def sample_members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Key, suffix and header of the members that belong to a sample."""
    for member in tar:
        split = split_name(member.name) if member.isreg() else None
        if split is not None:
            yield *split, member


def unpack(content: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Key, suffix and content of the members in a piece of a tar.

    Headers of plain files are read here, all others by tarfile, which for a sample of two members
    takes as long as a fifth of decoding its image.

    Raises:
        tarfile.TarError: the bytes are no such piece.
    """
    at = 0
    while at < len(content):
        plain = plain_header(content[at : at + BLOCK])
        if plain is None:
            break
        name, size = plain
        first, at = at + BLOCK, at + BLOCK * (1 + -(-size // BLOCK))
        if (split := split_name(name)) is not None:
            yield *split, content[first : first + size]
    if at > len(content):
        raise tarfile.TarError("the last member is cut short")
    if at == len(content):
        return
    with tarfile.open(fileobj=io.BytesIO(content[at:]), mode="r:") as tar:  # long names, links
        for key, suffix, member in sample_members(tar):
            extracted = tar.extractfile(member)
            assert extracted is not None  # regular members have content
            yield key, suffix, extracted.read()
        if at + tar.offset != len(content):
            raise tarfile.TarError("a header is unreadable")
