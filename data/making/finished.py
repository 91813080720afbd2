"""Finding shards that the same command has finished, by what the index says they were made of."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from data.making.build import Built, ShardJob, fingerprint, sources_sha256
from data.shards.index import Shard, made_of, read_index
from data.shards.writing import refuse_existing
from fcmae.run.config import differences
from fcmae.run.files import text_sha256
from fcmae.run.json_files import read_json

SOURCES = "sources"  # beside the plan: a hash of the content of all files
SHOWN = 5  # differences


def record_of(plan: Path, made: Mapping[str, Sequence[Built]]) -> dict[str, Any]:
    """What shards were made of, for the index.

    Args:
        plan: The file with the plan.
        made: The shards by prefix.
    """
    begun = read_json(plan, dict)
    return {**begun, SOURCES: joined(built.sources for part in made.values() for built in part)}


def joined(sums: Iterable[str]) -> str:
    """A SHA-256 of the sums of the sources of all shards, in their order."""
    return text_sha256(" ".join(sums))


def finished(
    planned: Mapping[str, Sequence[ShardJob]],
    options: Mapping[str, Any],
    directory: Path,
    prefix: str,
) -> dict[str, list[Shard]] | None:
    """The shards of each prefix, if the same command has made them; None if there are none.

    Args:
        planned: The shards that are wanted, by prefix.
        options: The options that they were planned with.
        directory: Of the shards.
        prefix: That of the command.

    Raises:
        FileExistsError: Shards are there that were not made so, or of which this is not known.
        OSError, ValueError: The index cannot be read.
    """
    known = read_index(str(directory))
    made = made_of(directory).get(prefix)
    why = ""
    if isinstance(made, dict):
        differing = differing_from(cast("dict[str, object]", made), planned, options, known)
        if not differing:
            return {p: [known[job.path.name] for job in part] for p, part in planned.items()}
        why = f", and these were made otherwise ({'; '.join(differing[:SHOWN])})"
    for part in planned:
        refuse_existing(directory, part, why)
    return None


def differing_from(
    made: Mapping[str, Any],
    planned: Mapping[str, Sequence[ShardJob]],
    options: Mapping[str, Any],
    known: Mapping[str, Shard],
) -> list[str]:
    """What differs between shards that were made and those that are wanted, as lines.

    Args:
        made: What the others were made of.
        planned: See `finished`.
        options: See `finished`.
        known: The shards in the index, by file name.
    """
    jobs = [job for part in planned.values() for job in part]
    plan = {name: value for name, value in made.items() if name != SOURCES}
    differing = differences(plan, fingerprint(jobs, options))
    differing += [f"{job.path} is not that of the index" for job in jobs if not is_in(known, job)]
    # last, since it reads all images
    if not differing and joined(sources_sha256(job.entries) for job in jobs) != made.get(SOURCES):
        differing = ["images have other content"]
    return differing


def is_in(known: Mapping[str, Shard], job: ShardJob) -> bool:
    """Whether the shard of a job is in the index, and has the size that this says."""
    shard = known.get(job.path.name)
    return shard is not None and job.path.is_file() and job.path.stat().st_size == shard.size
