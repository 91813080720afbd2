"""Verifying shards: every member is read, every image decoded, and all compared with the index."""

import gzip
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

from data.config import MEASURED
from data.decode import OversizedImage, encoded_image, open_image
from data.making.workers import over
from data.shards.headers import DamagedTar
from data.shards.index import Shard
from data.shards.members import image_suffix, is_label, is_stray, split_name
from data.shards.scanning import shown
from data.shards.tar import INFLATED, LARGEST, check_end, members_of, reader
from data.values import to_floats
from fcmae.run.files import file_sha256
from fcmae.run.terminal import say
from fcmae.run.waiting import counted

LISTED = 20  # how many faults of each kind are printed
GZIP = b"\x1f\x8b"  # the first bytes of a compressed shard


@dataclass(frozen=True)
class Findings:
    """The keys of one shard, and its faults as (kind, description)."""

    keys: tuple[str, ...]
    faults: tuple[tuple[str, str], ...]


def verify(
    paths: Sequence[Path], listed: Mapping[Path, Shard], workers: int, image: str = ""
) -> tuple[int, Counter[str]]:
    """Check shards and print their faults.

    The kinds of faults are: unreadable (no whole tar), replaced (not the size or hash of the
    index), unlisted (in no index), link, sparse or unknown (a member without content of its own),
    duplicate (a member twice in a sample, or a key in two places), orphan (a member without a key,
    or a sample without an image), undecodable (an image, or a label that is no integer), oversized
    (an image with too many pixels).

    Args:
        paths: The shards.
        listed: The shards that an index lists, by path.
        workers: The number of processes.
        image: The suffix of the images; "" for any of IMAGE_SUFFIXES.

    Returns:
        The number of samples, and how often each kind of fault occurs.
    """
    samples = 0
    kinds: Counter[str] = Counter()
    places: dict[str, str] = {}
    jobs = [(path, listed.get(path), image) for path in paths]
    results = over(verify_shard, jobs, workers)
    by_path = dict(counted(results, "verifying shards", len(jobs), "shards"))
    for path in paths:  # in this order, so that messages do not depend on which shard came first
        findings = by_path[path]
        faults = list(findings.faults)
        for key in findings.keys:
            other = places.setdefault(key, str(path))
            if other != str(path):
                faults.append(("duplicate", f"{path}: key {key!r} is in {other}, too"))
        samples += len(findings.keys)
        for kind, what in faults:
            kinds[kind] += 1
            if kinds[kind] <= LISTED:
                say(f"{kind}: {what}")
    return samples, kinds


def verify_shard(job: tuple[Path, Shard | None, str]) -> tuple[Path, Findings]:
    """Check one shard. The job is its path, what the index says about it, and `verify`'s image."""
    path, listed, image = job
    faults: list[tuple[str, str]] = []
    if listed is None:
        faults.append(("unlisted", f"{path}: in no index; run fcmae shards index {path}"))
    elif path.stat().st_size != listed.size or file_sha256(path) != listed.sha256:
        faults.append(("replaced", f"{path}: not the size or SHA-256 that index.json says"))
    keys: dict[str, None] = {}
    current = None
    members: dict[str, bytes] = {}

    def close() -> None:
        if current is not None:
            faults.extend(faults_of_sample(f"{path}: sample {current!r}", members, image))

    end = 0
    try:
        with opened(path) as (file, length):
            read = reader(file)
            for member in members_of(read, length):
                end = member.after
                if member.why:
                    faults.append((member.kind, f"{path}: {member.name!r} {member.why}"))
                split = split_name(member.name) if member.kind == "file" else None
                if split is None:
                    if is_stray(member):
                        faults.append(("orphan", f"{path}: {member.name!r} belongs to no sample"))
                    continue
                key, suffix = split
                if key != current:
                    close()
                    if key in keys:
                        faults.append(("duplicate", f"{path}: sample {key!r} comes twice"))
                    keys[key] = None
                    current = key
                    members = {}
                if suffix in members:
                    faults.append(("duplicate", f"{path}: sample {key!r}: two members {suffix!r}"))
                held = sum(map(len, members.values()))
                most = INFLATED if length is None else LARGEST
                if held + member.size > most:
                    raise DamagedTar(f"sample {key!r} has more than {most} bytes")
                members[suffix] = read(member.start, member.size)
                if len(members[suffix]) < member.size:
                    raise DamagedTar(f"it ends within {member.name!r}")
            close()
            check_end(read, end)
    except (OSError, EOFError, DamagedTar, zlib.error) as error:
        faults.append(("unreadable", f"{path}: {error}"))
    return path, Findings(tuple(keys), tuple(faults))


@contextmanager
def opened(path: Path) -> Iterator[tuple[BufferedIOBase, int | None]]:
    """Open a shard, compressed or not, and give its length in bytes, or None if it is compressed.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        if file.peek(2)[:2] == GZIP:
            with gzip.GzipFile(fileobj=file) as stream:
                yield stream, None
        else:
            yield file, path.stat().st_size


def faults_of_sample(where: str, members: Mapping[str, bytes], image: str) -> list[tuple[str, str]]:
    """The faults of a sample, whose image is decoded; `where` begins their descriptions."""
    faults = []
    if image_suffix(members, image) is None:
        faults.append(("orphan", f"{where} has no image, only {shown(list(members))}"))
    else:
        try:
            encoded, suffix = encoded_image(members, image)
            to_floats(open_image(encoded, suffix, None, MEASURED).whole(), MEASURED)
        except OversizedImage as error:
            faults.append(("oversized", f"{where}: {error}"))
        except ValueError as error:
            faults.append(("undecodable", f"{where}: {error}"))
    if not is_label(members.get("cls", b"0")):
        faults.append(("undecodable", f"{where}: its label is no integer"))
    return faults
