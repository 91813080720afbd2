"""The members of a tar as samples: how their names group them."""

from collections.abc import Container, Iterator

from data.config import IMAGE_SUFFIXES
from data.shards.headers import DamagedTar
from data.shards.tar import Member, members_of


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


def is_stray(member: Member) -> bool:
    """Whether a member belongs to no sample, although it is a file and no hidden one."""
    if member.kind != "file" or split_name(member.name) is not None:
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


def unpack(content: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, suffix and content of each member in a piece of a tar.

    Raises:
        DamagedTar: The bytes are no piece of a tar, or a member has no content that is read.
    """
    at = 0
    for member in members_of(lambda at, count: content[at : at + count], len(content)):
        if member.why:
            raise DamagedTar(f"{member.name!r} {member.why}")
        split = split_name(member.name) if member.kind == "file" else None
        if split is not None:
            yield *split, content[member.start : member.start + member.size]
        at = member.after
    if at != len(content):
        raise DamagedTar("a header is unreadable")
