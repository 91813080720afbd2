"""Make WebDataset shards from images.

    python scripts/make_shards.py SOURCE OUT_DIR

SOURCE is a folder, with a sub-folder for each class (`SOURCE/CLASS/.../image.jpg`) or of images
alone, or a table of them (.csv, .jsonl, .parquet): a column of paths, perhaps one of labels, and
metadata. The label of a class is its place in `OUT_DIR/classes.json`: the sorted names of the first
labelled images, to which later ones, such as a test set, must keep; labels that are integers stay.
The bytes of JPEG, PNG, WebP, TIFF and .npy files are copied and not encoded again.

Shards are made in parallel. A command that was killed can be repeated: it makes the missing shards,
with the same bytes as without the kill.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from data.config import MEASURED, Encoding
from data.making.build import Built, build_shards, plan_shards
from data.making.entries import Entry
from data.making.labels import label_entries
from data.making.listing import find_entries
from data.making.splitting import shuffle, split
from data.making.workers import Engine, cores
from data.shards.index import statistics, write_index
from fcmae.run.config import run_program
from fcmae.run.files import write_json


@dataclass(frozen=True, kw_only=True)
class MakeShards:
    """The flags of make_shards."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A folder of images, or a table of them: .csv with a header, .jsonl or .parquet."""
    out_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT_DIR")]
    """Directory for the shards, index.json and classes.json. Shards there are never replaced."""
    shard_size: int = 1000
    """Number of images in a shard."""
    prefix: str = "train"
    """First part of the shards' names: PREFIX-000000.tar."""
    val: float = 0.0
    """Share of the images that go into validation shards, val-000000.tar and so on."""
    split: Literal["hashed", "stratified"] = "hashed"
    """How validation images are chosen. hashed: by their keys, so that an image stays on its side
    when others are added. stratified: the same share of each class."""
    path_column: str = "path"
    """Column of a table with the paths of images; relative paths start at the table's folder."""
    label_column: str | None = None
    """Column of a table with the labels; by default `label`, if there is one. The other columns
    become the json member of the samples."""
    seed: int = 0
    """Seed of the order of the images, which mixes the classes."""
    max_broken: float = 0.01
    """Share of images that may fail to decode: they are skipped and named. More stop the run."""
    workers: int = cores()
    """Number of processes, or of CPUs of a local Ray cluster."""
    engine: Engine = "pool"
    """Where shards are made. pool: in processes of this machine. ray: on the cluster of
    RAY_ADDRESS, or on a local one."""
    encoding: Annotated[Encoding, tyro.conf.arg(name="")] = field(default_factory=Encoding)


def channels_of_first(entries: list[Entry]) -> int:
    """Count the channels of the first image that can be decoded.

    Raises:
        ValueError: no image can be decoded.
    """
    from data.decode import decode  # here: it brings torch, which the help text does without

    for entry in entries:
        try:
            suffix = entry.path.suffix.lower()[1:]
            return decode(entry.path.read_bytes(), suffix, config=MEASURED).shape[0]
        except ValueError:
            continue
    raise ValueError(f"none of the {len(entries)} images can be decoded")


def build(args: MakeShards, entries: list[Entry]) -> list[Built]:
    """Build all shards, and return them sorted by URL.

    Raises:
        ChildProcessError: a worker was killed.
        OSError: a shard cannot be written.
        ValueError: too many images are broken, or the shards there are of another command.
    """
    rest, taken = split(entries, args.val, args.split) if args.val else (entries, [])
    jobs = [
        job
        for part, prefix in ((rest, args.prefix), (taken, "val"))
        for job in plan_shards(part, args.out_dir, prefix, args.shard_size, args.encoding)
    ]
    staging = args.out_dir / f".{args.prefix}.plan"
    finished: list[Built] = []
    broken = 0
    options = {name: getattr(args, name) for name in ("seed", "val", "split", "shard_size")}
    with (
        # closed, so that no worker writes any more when the shards are taken back
        closing(build_shards(jobs, options, staging, args.workers, args.engine)) as shards,
        tqdm(total=len(entries), unit=" images", disable=None) as bar,
    ):
        for built in shards:
            finished.append(built)
            bar.update(built.images)
            broken += len(built.broken)
            for path, why in built.broken:
                tqdm.write(f"skipped {path}: {why}", file=sys.stderr)
            if broken > args.max_broken * len(entries):
                break
    if broken > args.max_broken * len(entries):
        for job in jobs:
            job.path.unlink(missing_ok=True)
        shutil.rmtree(staging)
        raise ValueError(
            f"{broken} of {len(entries)} images cannot be decoded, more than the share "
            f"--max-broken {args.max_broken}; repair or remove them, or raise the share"
        )
    return sorted(finished, key=lambda built: built.shard.url)


def main(argv: Sequence[str]) -> None:
    """Write the shards, and print what was written.

    Raises:
        ChildProcessError: a worker was killed.
        OSError: images cannot be read, or shards cannot be written.
        ValueError: a flag is out of range, or too many images are broken.
    """
    args = tyro.cli(MakeShards, description=__doc__, args=list(argv))
    for name, share in (("max-broken", args.max_broken), ("val", args.val)):
        if not 0 <= share < 1:
            raise ValueError(f"--{name} {share} must be a share, 0 <= share < 1")
    if args.val and args.prefix == "val":
        raise ValueError("--prefix val is the name of the images that --val takes out")
    if args.workers < 1:
        raise ValueError(f"--workers {args.workers} must be at least 1")
    listing = find_entries(args.source, args.path_column, args.label_column)
    entries = shuffle(listing.entries, args.seed)
    file = args.out_dir / "classes.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    entries, classes = label_entries(entries, known, file)
    print(f"{len(entries)} images, {len(classes) or 'no'} classes", flush=True)
    if args.encoding.in_chans is None:
        encoding = replace(args.encoding, in_chans=channels_of_first(entries))
        args = replace(args, encoding=encoding)
    finished = build(args, entries)
    if classes:
        write_json(file, classes, compact=True)
    shards = [built.shard for built in finished]
    write_index(shards)
    shutil.rmtree(args.out_dir / f".{args.prefix}.plan")
    total = sum(shard.samples for shard in shards)
    mean, std = statistics(shards)
    print(f"{total} images in {len(shards)} shards, {len(entries) - total} skipped: {args.out_dir}")
    print(f"mean {' '.join(f'{x:.4f}' for x in mean)}  std {' '.join(f'{x:.4f}' for x in std)}")


if __name__ == "__main__":
    run_program(main)
