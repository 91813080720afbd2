"""What is wrong with a shard: every member read, every image decoded, held against the index."""

import tarfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from data.decode import OversizedImage, decode, image_suffix
from data.making.workers import over
from data.shards.index import Shard
from data.shards.members import BLOCK, split_name
from fcmae.run.files import file_sha256

LISTED = 20  # faults that are printed of each kind


@dataclass(frozen=True)
class Findings:
    """Of one shard: samples, keys, and faults as (kind, what)."""

    samples: int
    keys: tuple[str, ...]
    faults: tuple[tuple[str, str], ...]


def verify(
    paths: Sequence[Path], listed: Mapping[Path, Shard], workers: int
) -> tuple[int, Counter[str]]:
    """Check the shards and print what is found; returns the samples and the count of each fault.

    `listed` are the shards that an index knows, by path. Kinds of faults: unreadable (no whole
    tar), replaced (not the size or hash of the index), unlisted, duplicate (a member twice in a
    sample, or a key in two places), orphan (a member without a key, a sample without an image),
    undecodable (also a label that is no integer), oversized (more pixels than are decoded).
    """
    samples, kinds, places = 0, Counter[str](), dict[str, str]()
    jobs = [(path, listed.get(path)) for path in paths]
    results = over(_verify_one, jobs, workers)
    by_path = dict(tqdm(results, "verifying", len(jobs), unit="shard", disable=None))
    for path in paths:  # in their order: which of two shards has a key "too" is no matter of speed
        found = by_path[path]
        faults = list(found.faults)
        for key in found.keys:
            other = places.setdefault(key, str(path))
            if other != str(path):
                faults.append(("duplicate", f"{path}: key {key!r} is in {other}, too"))
        samples += found.samples
        for kind, what in faults:
            kinds[kind] += 1
            if kinds[kind] <= LISTED:
                print(f"{kind}: {what}")
    return samples, kinds


def _verify_one(job: tuple[Path, Shard | None]) -> tuple[Path, Findings]:
    path, listed = job
    faults: list[tuple[str, str]] = []
    if listed is None:
        faults.append(("unlisted", f"{path}: in no index; run python -m data.shards index {path}"))
    elif path.stat().st_size != listed.size or file_sha256(path) != listed.sha256:
        faults.append(("replaced", f"{path}: not the size or SHA-256 that index.json says"))
    keys: dict[str, None] = {}
    current, members = None, dict[str, bytes]()

    def close() -> None:
        if current is not None:
            faults.extend(_of_sample(f"{path}: sample {current!r}", members))

    try:
        with tarfile.open(path) as tar:
            for member in tar:
                split = split_name(member.name)
                if not member.isreg():
                    continue
                if split is None:
                    if not member.name.rpartition("/")[2].startswith(("._", "__")):
                        faults.append(("orphan", f"{path}: {member.name!r} belongs to no sample"))
                    continue
                key, suffix = split
                if key != current:
                    close()
                    if key in keys:
                        faults.append(("duplicate", f"{path}: sample {key!r} comes twice"))
                    keys[key], current, members = None, key, {}
                if suffix in members:
                    faults.append(("duplicate", f"{path}: sample {key!r}: two members {suffix!r}"))
                file = tar.extractfile(member)
                assert file is not None  # regular members have content
                members[suffix] = file.read()
            close()
            # tarfile takes an unreadable header for the end of the archive, a block of zeros
            assert tar.fileobj is not None  # until it is closed
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(BLOCK) != bytes(BLOCK):
                raise tarfile.ReadError(
                    f"byte {tar.offset} begins neither a tar header nor the end of the archive"
                )
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        faults.append(("unreadable", f"{path}: {error}"))
    return path, Findings(len(keys), tuple(keys), tuple(faults))


def _of_sample(where: str, members: dict[str, bytes]) -> list[tuple[str, str]]:
    faults = []
    suffix = image_suffix(members)
    if suffix is None:
        faults.append(("orphan", f"{where} has no image, only {', '.join(members)}"))
    else:
        try:
            decode(members[suffix], suffix, None, "float32")
        except OversizedImage as error:
            faults.append(("oversized", f"{where}: {error}"))
        except ValueError as error:
            faults.append(("undecodable", f"{where}: {error}"))
    if not members.get("cls", b"0").strip().removeprefix(b"-").isdigit():
        faults.append(("undecodable", f"{where}: its label is no integer"))
    return faults
