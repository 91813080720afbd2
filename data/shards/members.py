"""The members of a tar: their headers, and how their names group them into samples."""

import io
import tarfile
from collections.abc import Container, Iterator

from data.config import IMAGE_SUFFIXES

BLOCK = 512  # bytes; a tar is a sequence of blocks of this size and ends with blocks of zeros


def split_name(name: str) -> tuple[str, str] | None:
    """Split a member's name into key and lower-case suffix, where webdataset splits it.

    The split is at the first dot of the last part: `a.b/c.d.PNG` gives `("a.b/c", "d.png")`.

    Returns:
        Key and suffix, or None if the member belongs to no sample: its name has no dot, it is a
        hidden file (such as the `._` files of macOS), or it is one of webdataset's `__meta__`.
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


def is_stray(member: tarfile.TarInfo) -> bool:
    """Whether a member belongs to no sample, although it is a file and no hidden one."""
    if not member.isreg() or split_name(member.name) is not None:
        return False
    return not member.name.rpartition("/")[2].startswith(("._", "__"))


def image_suffix(members: Container[str], image: str = "") -> str | None:
    """The suffix of a sample's image, or None if it has none.

    Args:
        members: The suffixes of the sample's members.
        image: The suffix that the image has, perhaps with a dot before it; "" for the first of
            IMAGE_SUFFIXES that is there.
    """
    suffixes = (image.removeprefix(".").lower(),) if image else IMAGE_SUFFIXES
    return next((suffix for suffix in suffixes if suffix in members), None)


def is_label(content: bytes) -> bool:
    """Whether the content of a member `cls` is a whole number."""
    return content.strip().removeprefix(b"-").isdigit()


def plain_header(block: bytes) -> tuple[str, int] | None:
    """Read the name and size (bytes) of a regular file from its ustar header.

    Source: the tar interchange format of POSIX.1-1988. Numbers are octal, and the checksum is the
    sum of all bytes, where its own eight bytes count as blanks.

    Returns:
        Name and size, or None if the block is anything else.
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
    """Yield key, suffix and header of each member that belongs to a sample."""
    for member in tar:
        split = split_name(member.name) if member.isreg() else None
        if split is not None:
            yield *split, member


def unpack(content: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, suffix and content of each member in a piece of a tar.

    Plain headers are read here, and only the others by tarfile, which for a sample of two members
    takes a fifth of the time that decoding its image takes.

    Raises:
        tarfile.TarError: The bytes are no piece of a tar.
    """
    at = 0
    while at < len(content):
        plain = plain_header(content[at : at + BLOCK])
        if plain is None:
            break
        name, size = plain
        first = at + BLOCK
        at = first + BLOCK * -(-size // BLOCK)
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


def check_end(tar: tarfile.TarFile) -> None:
    """Check that a tar of which all members were read is whole, and that nothing follows its end.

    tarfile takes an unreadable header for the end of the archive, which is a block of zeros, and
    reads nothing behind it. A file that ends right behind a member may be cut there, which cannot
    be told from a tar whose end was never written.

    Raises:
        tarfile.ReadError: The end is missing, or something else than zeros stands there or later.
    """
    file = tar.fileobj
    assert file is not None  # it is open
    file.seek(tar.offset)
    block = file.read(BLOCK)
    if not block:
        raise tarfile.ReadError(
            f"it ends at byte {tar.offset} after a whole member, without the two blocks of zeros"
            " that end an archive; if nothing is missing, add them: head -c 1024 /dev/zero >> FILE"
        )
    if block != bytes(BLOCK):
        raise tarfile.ReadError(
            f"byte {tar.offset} begins neither a tar header nor the end of the archive"
        )
    while block := file.read(2**20):
        if block.strip(b"\0"):
            raise tarfile.ReadError(
                f"the archive ends at byte {tar.offset} and more data follows, as in tars that were"
                " joined with cat; join them with tar --concatenate"
            )
