"""Features of every sample of shards as a Parquet file, made in pieces that processes share.

A finished piece is a file in OUT.parquet.parts, so that what a kill costs is one piece a process.
Batches are those of a piece, so that the result depends neither on the processes nor on kills.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from data.bad_samples import BadSample, BadSamples
from data.config import WorkerCount
from data.dataset import ShardImages
from data.pipeline import batch_loader
from data.shards.samples import ShardSamples
from data.targets import ClassText
from data.transforms import Normalise
from fcmae.run.config import differences
from fcmae.run.waiting import counted
from fcmae.weights.metadata import CLASSES
from finetune.frozen.config import EmbedConfig
from finetune.frozen.feature_file import arrow, rows_of, to_metadata, written_with
from finetune.frozen.parts import BAD, Piece, assemble, pieces_of, unfinished, write_part
from finetune.labels.inference import images_for, means_of, refuse_not_finite, tiled
from finetune.labels.labelled import samples_of
from finetune.labels.names import class_names
from finetune.models.backbone import backbone, sha256_of, to_device
from finetune.models.compiled import frozen
from finetune.models.pooling import pooled

SHOWN = 5  # differences of a file that is there


def embed(config: EmbedConfig, accelerator: Accelerator) -> str:
    """Write the file, and say what is in it.

    Args:
        config: of the program.
        accelerator: of the processes that share the work; each has to call it.

    Raises:
        OSError: shards, weights or the folder of parts cannot be used, or the file exists.
        ValueError: flags or weights that do not fit, too many bad samples, features that are not
            finite, or parts of another command.
        ModuleNotFoundError: see `arrow`.
    """
    shards, out, folder = places_of(config)
    arrow()  # first of all, where it is missing
    model, metadata = backbone(config.weights, config.random, accelerator.print)
    to_device(model, accelerator.device)
    model.eval()
    provenance = asdict(metadata) | {
        **asdict(config.data.fitted(metadata)),
        "pool": config.pool,
        "tiles": config.tiles,
        "weights_sha256": sha256_of(model, metadata),
    }
    samples = samples_of(shards, config.data)
    images = images_for(samples, config.data, metadata, target=ClassText())
    pieces = pieces_of(len(images), config.piece, config.data.batch_size, folder)
    plan = {
        **provenance,
        "batch_size": config.data.batch_size,
        "piece": config.piece,
        "image": config.data.image,
        **contents_of(images.samples),
    }
    names = {CLASSES: class_names(images.samples)}
    made_with = to_metadata({"weights": config.weights, **provenance, **plan, **names})
    if is_made(out, folder, made_with, accelerator):
        return f"{out}: it is there already, of the same samples and options; nothing is written"
    bad = BadSamples(len(images), config.data.max_bad_fraction)
    todo = unfinished(pieces, folder, plan, bad, accelerator)
    normalise = Normalise(metadata.mean, metadata.std, metadata.in_chans).to(accelerator.device)

    forward = frozen(
        model,
        partial(pooled, model, pool=config.pool),
        images=len(images) // accelerator.num_processes,
        batch_size=config.data.batch_size,
        device=accelerator.device,
        say=accelerator.print,
    )

    def rows(batch: Mapping[str, Any]) -> Any:
        x = normalise(batch["image"].to(accelerator.device))
        features = tiled(forward, x, config.data.batch_size).cpu()
        means = means_of(features, batch["tiles"])
        refuse_not_finite(means, batch["whole"], lambda i: images.name(int(batch["sample"][i])))
        if config.tiles == "rows":
            return rows_of(batch, features, images.samples, a_tile=True)
        return rows_of(batch, means, images.samples, a_tile=False)

    write_pieces(todo, rows, images, bad, config.data.workers, accelerator)
    if accelerator.is_main_process:
        assemble([piece.finished() for piece in pieces], out, made_with)
        shutil.rmtree(folder)
    return f"{out}: features of {len(images) - len(bad)} samples, {len(bad)} left out"


def places_of(config: EmbedConfig) -> tuple[list[str], Path, Path]:
    """The shards, the file to write and the folder of its parts.

    Raises:
        ValueError: the flags do not name shards and a file.
    """
    if len(config.paths) < 2 or not config.paths[-1].endswith(".parquet"):
        raise ValueError(
            f"{' '.join(config.paths)!r} must be shards, then the file to write: SHARDS OUT.parquet"
        )
    if config.tiles == "rows" and config.data.fit != "tiles":
        raise ValueError(f"tiles=rows with data.fit={config.data.fit}: give --data.fit tiles")
    *spec, last = config.paths
    out = Path(last)
    return spec, out, out.with_name(f"{out.name}.parts")


def is_made(
    out: Path, folder: Path, made_with: Mapping[str, str], accelerator: Accelerator
) -> bool:
    """Whether an earlier call of the same command has written the file.

    What a kill at its end has left of its parts is removed.

    Args:
        out: the file.
        folder: of its parts.
        made_with: the metadata that the file gets.
        accelerator: of the processes, each of which has to call it.

    Raises:
        FileExistsError: the file is there, and of another command.
    """
    found = None
    if accelerator.is_main_process and out.exists():
        try:
            found = written_with(out)
        except (OSError, ValueError) as error:
            found = {"content": f"no Parquet file, {error}"}
    # one process looks, or those that see another disk would go on alone
    (found,) = broadcast_object_list([found])
    if found is None:
        return False
    if changed := differences(found, made_with):
        raise FileExistsError(
            f"{out} exists and is never overwritten, and it was not made by this command"
            f" ({'; '.join(changed[:SHOWN])}); delete it and {folder}, or name another file"
        )
    if accelerator.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
    return True


def contents_of(samples: ShardSamples) -> dict[str, Any]:
    """How many samples there are, and a hash of their shards, to tell them from others."""
    shards = json.dumps([(shard.url, shard.sha256) for shard in samples.shards])
    return {
        "samples": len(samples),
        "shards_sha256": hashlib.sha256(shards.encode()).hexdigest(),
    }


@torch.no_grad()
def write_pieces(
    pieces: Sequence[Piece],
    rows: Callable[[Mapping[str, Any]], Any],
    images: ShardImages,
    bad: BadSamples,
    workers: WorkerCount,
    accelerator: Accelerator,
) -> None:
    """Write the parts of pieces, one a process and round.

    Args:
        pieces: those that have no part yet.
        rows: gives the table of a batch.
        images: whose pieces these are.
        bad: takes in the samples that cannot be read.
        workers: processes that decode images, for each process.
        accelerator: of the processes that share the work.

    Raises:
        OSError: a part cannot be written.
        ValueError: too many bad samples.
    """
    world = accelerator.num_processes
    mine = pieces[accelerator.process_index :: world]
    items = ([(0, i) for i in batch] for piece in mine for batch in piece.batches)
    batches = iter(batch_loader(images, items, workers=workers, world=world))
    rounds = range(-(-len(pieces) // world))
    # in step, so that the bad samples of all count, and no process waits long for another
    for turn in counted(rounds, "extracting features", len(rounds), "pieces"):
        skipped = list[BadSample]()
        for piece in mine[turn : turn + 1]:  # the last round may have none for this process
            tables = []
            for batch in islice(batches, len(piece.batches)):
                tables.append(rows(batch))
                skipped += batch["bad"]
            noted = {BAD: json.dumps([astuple(sample) for sample in skipped])}
            table = arrow().concat_tables(tables).replace_schema_metadata(noted)
            write_part(table, piece)
        for sample in bad.add(gather_object(skipped)):
            accelerator.print(f"skipped {sample}")
