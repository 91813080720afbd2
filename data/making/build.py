"""Building shards from a plan, in any number of processes.

Each shard depends on its own part of the plan only. While shards are built, a folder beside them
holds the plan and a note on each finished shard, so the same command goes on where a killed one
stopped. The bytes are the same for any number of workers and interruptions.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data.config import Encoding
from data.making.aspects import aspect_of
from data.making.entries import Entry
from data.making.masks import values_of
from data.making.measuring import Measure
from data.making.workers import Engine, over
from data.shards.index import MOST_BYTES, Shard, from_entry, to_entry
from data.shards.writing import checked, refuse_existing, write_shard
from fcmae.run.config import plain
from fcmae.run.files import file_sha256, replacing, text_sha256, write_json
from fcmae.run.json_files import read_json

PLAN = "plan.json"  # in the folder of notes
UNREADABLE = "unreadable"  # in place of the sum of a file


@dataclass(frozen=True)
class ShardJob:
    """Everything that one shard is made of."""

    path: Path
    entries: tuple[Entry, ...]
    encoding: Encoding


@dataclass(frozen=True)
class Built:
    """A finished shard.

    Attributes:
        shard: The shard.
        images: The number of images that were planned for it.
        broken: The images that were left out, as (path, reason).
        digests: The others, as (hash of the bytes that are stored, path).
        pixels: The number of pixels of each class in the masks.
        remarks: What was assumed of how many of them; see `data.formats.opened.Opened`.
        aspects: How many of them have each aspect; see `data.making.aspects`.
        sources: See `sources_sha256`; empty in a note of an earlier version.
    """

    shard: Shard
    images: int
    broken: list[tuple[str, str]]
    digests: list[tuple[str, str]]
    pixels: Counter[int]
    remarks: Mapping[str, int]
    aspects: Mapping[str, int]
    sources: str


def plan_shards(
    entries: Sequence[Entry], directory: Path, prefix: str, shard_size: int, encoding: Encoding
) -> list[ShardJob]:
    """Plan shards `directory/PREFIX-000000.tar`, ... that hold `shard_size` entries each.

    Raises:
        ValueError: The size, the quality, the longest side or a value of masks is out of range.
    """
    if shard_size < 1:
        raise ValueError(f"--shard-size {shard_size} must be at least 1 image")
    if not 1 <= encoding.quality <= 100:
        raise ValueError(f"--quality {encoding.quality} must be 1 to 100")
    values_of(encoding.mask_values)
    if encoding.max_side is not None and encoding.max_side < 1:
        raise ValueError(f"--max-side {encoding.max_side} must be at least 1 pixel")
    suffix = ".tar.gz" if encoding.compress else ".tar"
    return [
        ShardJob(
            directory / f"{prefix}-{start // shard_size:06d}{suffix}",
            tuple(entries[start : start + shard_size]),
            encoding,
        )
        for start in range(0, len(entries), shard_size)
    ]


def build_shards(
    jobs: Sequence[ShardJob],
    options: Mapping[str, Any],
    staging: Path,
    workers: int,
    engine: Engine = "pool",
) -> Generator[Built, None, None]:
    """Build the shards that are still missing. Yields all shards, first those that exist.

    Args:
        jobs: What to build.
        options: The options that the jobs were planned with, which an error can name.
        staging: The folder for the plan and the notes, on the same file system as the shards.
        workers: See `over`.
        engine: See `over`.

    Raises:
        FileExistsError: There are shards that this plan did not make.
        ValueError: `staging` holds a different plan, or no image of a shard can be read.
        Exception: See `over`.
    """
    plan = staging / PLAN
    wanted = fingerprint(jobs, options)
    if plan.exists():
        begun = read_json(plan, dict)
        differing = [
            f"{name}: {begun.get(name)} -> {value}"  # a plan of an earlier version may lack it
            for name, value in wanted.items()
            if begun.get(name) != value
        ]
        if differing:
            raise ValueError(
                f"{staging} is the plan of unfinished, different shards ({'; '.join(differing)});"
                " repeat the command that began them, or delete it and those shards"
            )
    else:
        for directory, prefix in {(j.path.parent, j.path.name.rpartition("-")[0]) for j in jobs}:
            refuse_existing(directory, prefix)
        staging.mkdir(parents=True, exist_ok=True)
        write_json(plan, wanted, compact=True)
    missing = []
    for job in jobs:
        note = note_path(job.path, staging)
        if job.path.exists() and note.exists():
            yield read_note(job.path, note)
        else:
            missing.append((job, staging))
    yield from over(build_shard, missing, workers, engine)


def build_shard(job_and_staging: tuple[ShardJob, Path]) -> Built:
    """Build one shard and its note: read, check and write its images.

    Raises:
        OSError: The shard cannot be written.
        ValueError: None of its images can be read, webdataset could not read their keys, or a mask
            is wrong.
    """
    from data.making.encoding import encode  # here: they import torch, which planning does without
    from data.making.mask_files import encode_mask

    job, staging = job_and_staging
    broken: list[tuple[str, str]] = []
    digests: list[tuple[str, str]] = []
    sources: list[str] = []
    pixels: Counter[int] = Counter()
    values = values_of(job.encoding.mask_values)
    measure = Measure(job.encoding)
    remarks: Counter[str] = Counter()
    aspects: Counter[str] = Counter()
    made = f"{staging}{os.sep}"

    def samples() -> Iterator[dict[str, Any]]:
        for entry in job.entries:
            digest = UNREADABLE
            try:
                content = entry.path.read_bytes()
                digest = hashlib.sha256(content).hexdigest()
                encoded = encode(content, entry.path.suffix.lower()[1:], job.encoding)
                measure.add(encoded.stored)
            except (OSError, ValueError) as error:
                broken.append((str(entry.path), str(error)))
                continue
            finally:
                sources.append(digest)
                if entry.mask is not None:
                    sources.append(sum_of(entry.mask))
            remarks.update(encoded.remarks)
            aspects[aspect_of(*encoded.stored.shape[:2])] += 1
            name = str(entry.path)
            if name.startswith(
                made
            ):  # an image of a cell has a file only as long as shards are made
                name = entry.key
            if encoded.content is not content:
                digest = hashlib.sha256(encoded.content).hexdigest()
            digests.append((digest[:32], name))
            sample: dict[str, Any] = {"__key__": entry.key, encoded.suffix: encoded.content}
            if entry.label is not None:
                sample["cls"] = entry.label
            if entry.metadata:
                sample["json"] = entry.metadata
            if entry.mask is not None:
                sample["seg.png"], counts = encode_mask(entry, encoded.content, values)
                pixels.update(counts)
            yield sample

    # a folder of its own: the worker of a killed parent may write the same shard for a second more
    with replacing(job.path, staging) as partial:
        shard = write_shard(checked(samples()), partial, job.encoding.compress)
        if not shard.samples:
            path, why = broken[0]
            raise ValueError(
                f"none of the {len(broken)} images of {job.path} can be read, such as {path}:"
                f" {why}; remove them, or raise --shard-size"
            )
        shard = replace(shard, url=str(job.path), moments=measure.moments())
        images = len(job.entries)
        sums = text_sha256(" ".join(sources))
        built = Built(shard, images, broken, digests, pixels, remarks, aspects, sums)
        note = {
            "shard": to_entry(shard),
            "images": built.images,
            "broken": broken,
            "digests": digests,
            "pixels": sorted(pixels.items()),
            "remarks": remarks,
            "aspects": aspects,
            "sources": sums,
        }
        write_json(note_path(job.path, staging), note, compact=True)
    return built


def note_path(shard: Path, staging: Path) -> Path:
    """Where the note on a finished shard lies."""
    return staging / f"{shard.name}.json"


def read_note(shard: Path, note: Path) -> Built:
    """Read the note on a finished shard."""
    content = read_json(note, dict, MOST_BYTES)
    broken, digests = ([(one, other) for one, other in content[n]] for n in ("broken", "digests"))
    pixels = Counter(dict(content["pixels"]))
    known = from_entry(str(shard), content["shard"])
    remarks, aspects = content["remarks"], content["aspects"]
    sources = content.get("sources", "")
    return Built(known, content["images"], broken, digests, pixels, remarks, aspects, sources)


def fingerprint(jobs: Sequence[ShardJob], options: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies a plan: the options in plain text, and a hash of the listed images."""
    digest = hashlib.sha256()
    for job in jobs:
        for entry in job.entries:
            mask = None if entry.mask is None else (str(entry.mask), size_of(entry.mask))
            size = size_of(entry.path)
            row = (job.path.name, entry.key, entry.label, entry.metadata, size, mask)
            digest.update(json.dumps(row, sort_keys=True).encode())
    images = sum(len(job.entries) for job in jobs)
    return {
        "images": images,
        "shards": len(jobs),
        **options,
        **plain(asdict(jobs[0].encoding)),
        "listing": digest.hexdigest(),
    }


def sources_sha256(entries: Sequence[Entry]) -> str:
    """A SHA-256 of the content of the files that images and masks are read from, in their order."""
    files = ((entry.path, entry.mask) for entry in entries)
    return text_sha256(" ".join(sum_of(path) for pair in files for path in pair if path))


def sum_of(path: Path) -> str:
    """The SHA-256 of a file, or a word for one that cannot be read, such as a link to nothing."""
    try:
        return file_sha256(path)
    except OSError:
        return UNREADABLE


def size_of(path: Path) -> int | None:
    """The size of a file in bytes; None for a link to nothing."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
