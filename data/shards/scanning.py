"""Scanning a tar, whoever made it: where its samples lie, and whether they can be read as meant.

What would be read otherwise than its maker meant is refused: members of a sample that do not follow
each other, links, images that the rule for names does not find. What is merely left out is counted.
"""

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np

from data.config import IMAGE_SUFFIXES
from data.shards.headers import DamagedTar
from data.shards.index import Shard
from data.shards.members import image_suffix, is_label, is_stray, split_name
from data.shards.tar import LARGEST, Member, Read, check_end, members_of, reader

SHOWN = 8  # how many suffixes a message lists
LABEL = "cls"
# first bytes of what people have under the name of a tar, and what to do about it
FOREIGN = {
    b"\x1f\x8b": "compressed in one piece, so that no sample can be read alone; run gunzip on it",
    b"BZh": "compressed with bzip2; run bunzip2 on it",
    b"\xfd7zXZ": "compressed with xz; run unxz on it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; run unzstd on it",
    b"PK\x03\x04": "a zip file; unzip it, and make shards of its folder by fcmae shards make",
    b"version https://git-lfs": "a pointer of Git LFS; run git lfs pull",
    b"<": "a page of HTML or XML, which a server sent in place of the shard; fetch it again",
}


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """A shard, and what a scan found in it.

    Attributes:
        shard: The shard.
        keys: A hash of the key of each sample, which takes less memory than the keys.
        suffixes: How many members have each suffix.
        imageless: The number of samples without an image.
        several: The number of samples with several images.
        odd_labels: The contents of members `cls` that are no whole numbers.
        unlabelled: The number of samples without a member `cls`.
        strays: The names of members that belong to no sample, although they are not hidden.
    """

    shard: Shard
    keys: "array[int]"
    suffixes: Counter[str]
    imageless: int
    several: int
    odd_labels: Sequence[str]
    unlabelled: int
    strays: Sequence[str]


def index_shard(path: Path, image: str = "") -> Shard:
    """Scan an uncompressed tar for its samples. The arguments are those of `scan`.

    Raises:
        ValueError: See `scan`.
    """
    with path.open("rb") as file:
        return scan(file, str(path), image).shard


def scan(file: BufferedReader, url: str, image: str = "") -> Scanned:
    """Scan an open tar for its samples, which are runs of regular members that share a key.

    Args:
        file: The open tar.
        url: Where the shard lies, for the result and for errors.
        image: The suffix of the members that are the images; "" for any of IMAGE_SUFFIXES.

    Raises:
        ValueError: The file is truncated, damaged or compressed; a key comes again after other
            samples, or a member twice in a sample; a member is a link; there are no samples, or
            half of them or more have no image.
    """
    refuse_foreign(file, url)
    offsets = array("q")
    keys: dict[str, None] = {}
    current: str | None = None
    members: dict[str, None] = {}  # suffixes of the current sample; a set that keeps its order
    tally = Tally(image)
    strays: list[str] = []
    odd_labels: list[str] = []
    end = last = 0
    size = file.seek(0, os.SEEK_END)
    read = reader(file)
    try:
        for member in members_of(read, size):
            if member.why:
                raise ValueError(f"{url}: {member.name!r} {member.why}")
            end = member.after
            split = split_name(member.name) if member.kind == "file" else None
            if split is None:
                if is_stray(member):
                    strays.append(member.name)
                continue
            key, suffix = split
            if key != current:
                tally.add(current, members)
                if key in keys:
                    raise ValueError(
                        f"{url}: sample {key!r} begins again at {member.name!r}, after other"
                        " samples; the members of a sample must follow each other: unpack the"
                        " tar, and write it again with tar --sort=name"
                    )
                offsets.append(member.offset)
                keys[key] = None
                current = key
                members = {}
            if suffix in members:
                raise ValueError(
                    f"{url}: sample {key!r} has two members {suffix!r}; "
                    "every name in a shard must be unique"
                )
            members[suffix] = None
            if suffix == LABEL and (odd := odd_label(read, member)) is not None:
                odd_labels.append(odd)
            last = end
            if last - offsets[-1] > LARGEST:
                raise ValueError(
                    f"{url}: sample {key!r} has more than {LARGEST} bytes, and samples are read as"
                    f" a whole; write the tar again without members such as {member.name!r}"
                )
        check_end(read, end)
    except DamagedTar as error:
        raise ValueError(
            f"{url} is truncated, damaged or no uncompressed tar ({error}); "
            "copy or build it again, or decompress it"
        ) from error
    if not offsets:
        raise ValueError(f"{url} holds no samples: members must be named KEY.png, KEY.cls, ...")
    offsets.append(last)
    tally.add(current, members)
    tally.refuse_imageless(url, len(keys))
    file.seek(0)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Scanned(
        shard=Shard(url=url, size=size, sha256=sha256, offsets=offsets),
        keys=array("q", map(hash, keys)),
        suffixes=tally.suffixes,
        imageless=tally.imageless,
        several=tally.several,
        odd_labels=odd_labels,
        unlabelled=tally.unlabelled,
        strays=strays,
    )


class Tally:
    """The members of samples, counted.

    Args:
        image: The suffix of the members that are the images; "" for any of IMAGE_SUFFIXES.
    """

    def __init__(self, image: str) -> None:
        self.image = image
        self.suffixes: Counter[str] = Counter()
        self.imageless = 0
        self.several = 0
        self.unlabelled = 0
        self.example = ""

    def add(self, key: str | None, members: dict[str, None]) -> None:
        """Count a sample by the suffixes of its members; no key stands for no sample."""
        if key is None:
            return
        self.suffixes.update(members.keys())
        self.unlabelled += LABEL not in members
        self.several += not self.image and sum(name in members for name in IMAGE_SUFFIXES) > 1
        if image_suffix(members, self.image) is None:
            self.example = self.example or f"{key!r}, which has {shown(list(members))}"
            self.imageless += 1

    def refuse_imageless(self, url: str, samples: int) -> None:
        """Check that most samples have an image, as they have unless their names mean another rule.

        Raises:
            ValueError: Half of the samples or more have none.
        """
        if 2 * self.imageless < samples:
            return
        wanted = [self.image] if self.image else IMAGE_SUFFIXES
        raise ValueError(
            f"{url}: {self.imageless} of {samples} samples have no image, such as {self.example};"
            " a name is split at the first dot of its last part into the sample's key and the"
            f" member's suffix, and the image is the member {' or '.join(wanted)}: rename the"
            " members, or if one of them is the image, name its suffix (index --image"
            " SUFFIX, in training --data.image SUFFIX)"
        )


def shown(suffixes: Sequence[str]) -> str:
    """Some suffixes as text that can be printed, the first few of them by name."""
    more = f" and {len(suffixes) - SHOWN} more" if len(suffixes) > SHOWN else ""
    return f"{', '.join(repr(suffix)[1:-1] for suffix in suffixes[:SHOWN])}{more}"


def refuse_foreign(file: BufferedReader, url: str) -> None:
    """Check by its first bytes that an open file is none of the other kinds that people have.

    Raises:
        ValueError: It is one of FOREIGN.
    """
    head = file.read(64)
    file.seek(0)
    for magic, what in FOREIGN.items():
        if head.lstrip().startswith(magic) and not is_tar(file):
            raise ValueError(f"{url} is no plain tar but {what}")


def is_tar(file: BufferedReader) -> bool:
    """Whether an open file begins with the header of a tar, and not just with its first bytes."""
    block = file.read(512)
    file.seek(0)
    return block[257:262] == b"ustar"


def odd_label(read: Read, member: Member) -> str | None:
    """The text of a label that is no whole number; None for one that is."""
    content = read(member.start, min(member.size, 32))
    return None if is_label(content) else content.decode(errors="replace")


def report(scans: Sequence[Scanned]) -> list[str]:
    """Tell what the samples of shards are made of, and what of them will not be used, as lines."""
    suffixes = sum((scanned.suffixes for scanned in scans), Counter[str]())
    samples = sum(scanned.shard.samples for scanned in scans)
    lines = [f"members: {shown([f'{suffix} {n}' for suffix, n in suffixes.most_common()])}"]
    imageless = sum(scanned.imageless for scanned in scans)
    if imageless:
        lines.append(f"{imageless} of {samples} samples have no image")
    several = sum(scanned.several for scanned in scans)
    if several:
        lines.append(
            f"{several} of {samples} samples have several images: the suffix that comes first in"
            f" {shown(IMAGE_SUFFIXES)} is read, or that of --image and --data.image"
        )
    odd = [label for scanned in scans for label in scanned.odd_labels]
    if odd:
        lines.append(f"{len(odd)} labels ({LABEL}) are no whole numbers, such as {odd[0]!r}")
    unlabelled = sum(scanned.unlabelled for scanned in scans)
    if 0 < unlabelled < samples:
        lines.append(f"{unlabelled} of {samples} samples have no label ({LABEL})")
    distinct = len(np.unique(np.concatenate([scanned.keys for scanned in scans])))
    if distinct < samples:
        lines.append(f"{samples - distinct} samples have the key of one in another shard")
    strays = [name for scanned in scans for name in scanned.strays]
    if strays:
        lines.append(f"{len(strays)} members belong to no sample, such as {strays[0]!r}")
    return lines
