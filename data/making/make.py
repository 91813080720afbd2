"""Making shards of a source of images: what `fcmae shards make` does, step by step."""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from data.config import MEASURED, Encoding
from data.making.aspects import describe_aspects
from data.making.build import PLAN, Built, ShardJob, build_shards, plan_shards
from data.making.entries import Entry, Listing
from data.making.equal_images import equal_images
from data.making.finished import finished, record_of
from data.making.labels import label_entries, listed, refuse_numbered
from data.making.listing import find_entries
from data.making.masks import describe_masks, values_of, with_masks
from data.making.splitting import by_prefix, shuffle
from data.making.summary import report, report_parts
from data.making.tables.arrow import unpack
from data.making.tables.hub import fetched
from data.making.walking import suffix_of
from data.making.workers import Engine
from data.shards.class_names import CLASSES, read_names
from data.shards.index import INDEX, Shard, merged_moments, write_index
from data.shards.index_lock import index_lock
from fcmae.run.files import write_json
from fcmae.run.ranges import Count, Seed, ShareBelow1, WorkersFrom1
from fcmae.run.terminal import say
from fcmae.run.threads import cores
from fcmae.run.waiting import waiting

PLANNED = ("seed", "val", "test", "split", "group", "shard_size")  # flags that change the shards


@dataclass(frozen=True, kw_only=True)
class MakeShards:
    """The flags of make_shards."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A folder of images, or a table of them: .csv or .tsv with a header, .json, .jsonl, .parquet,
    .arrow; a folder of tables, as `datasets` saves it; or hf://datasets/ORG/NAME."""
    out_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT_DIR")]
    """Directory for the shards, index.json and classes.json. Shards there are never replaced."""
    shard_size: Count = 1000
    """Number of images in a shard."""
    prefix: str = "train"
    """First part of the shards' names: PREFIX-000000.tar."""
    val: ShareBelow1 = 0.0
    """Share of the images that go into validation shards, val-000000.tar and so on."""
    test: ShareBelow1 = 0.0
    """Share of the images that go into test shards, test-000000.tar and so on."""
    split: Literal["hashed", "stratified"] = "hashed"
    """How images for validation and test are chosen. hashed: by their keys, so that an image stays
    on its side when others are added. stratified: the same share of each class."""
    group: str | None = None
    """Column of a table, such as that of the patient: images with the same value stay on one side
    of --val and --test. For splits of the source it is checked."""
    path_column: str = "path"
    """Column of a table with the paths of images, which start at the table's folder or else at the
    current one, or with the images themselves: by default the one column of images."""
    label_column: str | None = None
    """Column of a table with the labels; by default `label`, if there is one. The other columns
    become the json member of the samples."""
    masks: str | None = None
    """A folder of masks, which have the names of their images, perhaps with _mask or _seg; or the
    column of a table with the masks or their paths. The value of a pixel is its class."""
    seed: Seed = 0
    """Seed of the order of the images, which mixes the classes."""
    max_broken: ShareBelow1 = 0.01
    """Share of images that may fail to decode: they are skipped and named. More stop the run."""
    workers: WorkersFrom1 = field(default_factory=cores)
    """Number of processes, or of CPUs of a local Ray cluster."""
    engine: Engine = "pool"
    """Where shards are made. pool: in processes of this machine. ray: on the cluster of
    RAY_ADDRESS, or on a local one."""
    encoding: Annotated[Encoding, tyro.conf.arg(name="")] = field(default_factory=Encoding)

    @property
    def staging(self) -> Path:
        """The folder for all that is kept until the shards are whole."""
        return self.out_dir / f".{self.prefix}.plan"


def channels_of_first(entries: list[Entry]) -> int:
    """Count the channels of the first image that can be decoded.

    Raises:
        ValueError: no image can be decoded; the message has the reason of the first.
    """
    from data.decode import open_image  # here: it brings torch, which the help text does without

    first = ""
    for entry in entries:
        try:
            suffix = entry.path.suffix.lower()[1:]
            return open_image(entry.path.read_bytes(), suffix, None, MEASURED).whole().shape[2]
        except (OSError, ValueError) as error:
            first = first or f"{entry.path}: {error}"
    raise ValueError(f"none of the {len(entries)} images can be decoded; the first is {first}")


def build(
    args: MakeShards, planned: Mapping[str, Sequence[ShardJob]], options: Mapping[str, Any]
) -> dict[str, list[Built]]:
    """Build the shards that are planned by prefix, and return them, each part sorted by URL.

    Raises:
        ChildProcessError: a worker was killed.
        OSError: a shard cannot be written.
        ValueError: too many images are broken, the masks have one class alone, or the shards there
            are of another command.
    """
    jobs = [job for part in planned.values() for job in part]
    images = sum(len(job.entries) for job in jobs)
    finished: list[Built] = []
    broken = 0
    with (
        # closed, so that no worker writes any more when the shards are taken back
        closing(build_shards(jobs, options, args.staging, args.workers, args.engine)) as shards,
        waiting("making shards", images, "images") as wait,
    ):
        for built in shards:
            finished.append(built)
            wait.advance(built.images)
            broken += len(built.broken)
            for path, why in built.broken:
                say(f"skipped {path}: {why}", error=True)
            if broken > args.max_broken * images:
                break
    if broken > args.max_broken * images:
        take_back(jobs, args.staging)
        raise ValueError(
            f"{broken} of {images} images cannot be decoded, more than the share "
            f"--max-broken {args.max_broken}; repair or remove them, or raise the share, which is"
            " --data.max_bad_fraction of programs that take the folder itself"
        )
    if args.masks is not None:
        try:
            pixels = sum((built.pixels for built in finished), Counter[int]())
            say(describe_masks(pixels, values_of(args.encoding.mask_values)))
        except ValueError:
            take_back(jobs, args.staging)
            raise
    by_url = {built.shard.url: built for built in finished}
    return {prefix: [by_url[str(job.path)] for job in part] for prefix, part in planned.items()}


def take_back(jobs: Sequence[ShardJob], staging: Path) -> None:
    """Remove the shards that were made, and all that was kept to go on with them."""
    for job in jobs:
        job.path.unlink(missing_ok=True)
    shutil.rmtree(staging)


def make(args: MakeShards) -> None:
    """Write the shards, and print what was written.

    Raises:
        ChildProcessError: a worker was killed.
        OSError: images cannot be read, or shards cannot be written.
        ValueError: flags contradict each other, or too many images are broken.
    """
    shares = {"val": args.val, "test": args.test}
    if shares.get(args.prefix):
        message = f"--prefix {args.prefix} is the name of the images that --{args.prefix} takes out"
        raise ValueError(message)
    if sum(shares.values()) >= 1:
        raise ValueError(f"--val {args.val} and --test {args.test} leave nothing to train on")
    if args.encoding.mask_values is not None and args.masks is None:
        raise ValueError("--mask-values says what the values of --masks mean, which is not given")
    source = fetched(args.source)
    with waiting(f"listing the images of {args.source}"):
        listing = find_entries(source, args.path_column, args.label_column)
    entries = shuffle(listing.entries, args.seed)
    file = args.out_dir / CLASSES
    stored = read_names(file)
    entries, classes, notes = label_entries(entries, stored or listing.classes, file)
    if classes and not stored:
        refuse_numbered(args.out_dir)
    unused = [column for column in listing.unused if column != args.masks]
    if unused:
        notes.append(f"the bytes in {', '.join(unused)} are in no shard")
    for line in (*listing.notes, *notes):
        say(line)
    labels = {entry.label for entry in entries} - {None}
    say(f"{len(entries)} images, {len(labels) or 'no'} classes", flush=True)
    if args.masks is not None:
        with waiting("finding the masks of images"):
            entries, notes = with_masks(entries, args.masks, args.source, args.staging / "masks")
        for line in notes:
            say(line)
    with waiting("unpacking images out of tables"):
        entries = unpack(entries, args.staging / "cells")
    parts = by_prefix(entries, args.prefix, shares, args.split, args.group)
    if args.encoding.in_chans is None:
        encoding = replace(args.encoding, in_chans=channels_of_first(entries))
        args = replace(args, encoding=encoding)
    planned = {
        prefix: plan_shards(part, args.out_dir, prefix, args.shard_size, args.encoding)
        for prefix, part in parts.items()
    }
    options = {name: getattr(args, name) for name in PLANNED}
    with waiting("looking for shards that are there already"):
        known = already_there(args, planned, options)
    if known is not None:
        say(f"all shards are there already, of the same images and options: {args.out_dir}")
        report_parts(known)
        return
    made = build(args, planned, options)
    if classes:
        with index_lock(args.out_dir / INDEX):
            if (now := read_names(file)) not in (stored, classes):
                raise ValueError(
                    f"{file} was written meanwhile, with the classes {listed(now)}: make these"
                    " shards again, one command after the other"
                )
            write_json(file, classes, compact=True)
    shards = {prefix: [built.shard for built in part] for prefix, part in made.items()}
    record = {args.prefix: record_of(args.staging / PLAN, made)}
    write_index([shard for part in shards.values() for shard in part], record)
    shutil.rmtree(args.staging)
    report(shards, skipped(listing, made), args.out_dir)
    for line in (*of_pixels(args, made), *equal_images(made)):
        say(line)


def already_there(
    args: MakeShards, planned: Mapping[str, Sequence[ShardJob]], options: Mapping[str, Any]
) -> dict[str, list[Shard]] | None:
    """The shards by prefix, if the same command has finished them; see `finished`.

    What a kill at its end, or this start, has left of their making is removed.

    Raises:
        OSError, ValueError: See `finished`.
    """
    if (args.staging / PLAN).exists():  # they are being made
        return None
    try:
        known = finished(planned, options, args.out_dir, args.prefix)
    except FileExistsError:
        shutil.rmtree(args.staging, ignore_errors=True)
        raise
    if known is not None:
        shutil.rmtree(args.staging, ignore_errors=True)
    return known


def skipped(listing: Listing, finished: Mapping[str, Sequence[Built]]) -> Counter[tuple[str, str]]:
    """Count the files that are in no shard, by suffix and reason."""
    broken = (path for part in finished.values() for built in part for path, _ in built.broken)
    return listing.left_out + Counter(
        (suffix_of(Path(path)), "cannot be decoded as an image") for path in broken
    )


def of_pixels(args: MakeShards, finished: Mapping[str, Sequence[Built]]) -> list[str]:
    """What was assumed of the pixels of images, and what they need in training, as lines."""
    every = [built for part in finished.values() for built in part]
    remarks: Counter[str] = Counter()
    aspects: Counter[str] = Counter()
    for built in every:
        remarks.update(built.remarks)
        aspects.update(built.aspects)
    lines = [*describe_aspects(aspects)]
    lines += [f"{count} images {remark}" for remark, count in sorted(remarks.items())]
    depth = merged_moments([built.shard for built in every]).depth
    advised = depth is not None and args.encoding.range is None and depth.advice()
    return [*lines, advised] if advised else lines
