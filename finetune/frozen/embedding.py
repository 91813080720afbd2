"""Features of every sample of shards as a Parquet file, made in pieces that processes share.

A finished piece is a file in OUT.parquet.parts, so that what a kill costs is one piece a process.
Batches are those of a piece, so that the result depends neither on the processes nor on kills.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from tqdm import tqdm

from data.bad_samples import BadSample, BadSamples
from data.pipeline import ShardImages, batch_loader
from data.shards.samples import ShardSamples
from data.targets import ClassText, to_integer
from data.transforms import Normalise
from fcmae.run.config import differences
from fcmae.run.files import replacing, write_json
from fcmae.weights.metadata import CLASSES
from finetune.frozen.config import EmbedConfig
from finetune.frozen.feature_file import arrow, rows_of, to_metadata
from finetune.labels.inference import images_for, means_of, refuse_not_finite, tiled
from finetune.labels.labelled import samples_of
from finetune.labels.names import class_names
from finetune.models.backbone import backbone, sha256_of, to_device
from finetune.models.pooling import pooled

PLAN = "plan.json"  # in the folder of parts: what they depend on
BAD = "broken"  # in the metadata of a part: the samples that it left out
DICTIONARY = ["url"]  # columns whose values repeat


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
    bad = BadSamples(len(images), config.data.max_bad_fraction)
    todo = unfinished(pieces, folder, plan, bad, accelerator)
    normalise = Normalise(metadata.mean, metadata.std, metadata.in_chans).to(accelerator.device)

    def rows(batch: Mapping[str, Any]) -> Any:
        x = normalise(batch["image"].to(accelerator.device))
        features = tiled(partial(pooled, model, pool="last"), x, config.data.batch_size).cpu()
        means = means_of(features, batch["tiles"])
        refuse_not_finite(means, batch["whole"], lambda i: images.name(int(batch["sample"][i])))
        if config.tiles == "rows":
            return rows_of(batch, features, images.samples, a_tile=True)
        return rows_of(batch, means, images.samples, a_tile=False)

    write_pieces(todo, rows, images, bad, config.data.workers, accelerator)
    if accelerator.is_main_process:
        parts = [piece.part for piece in pieces]
        names = {CLASSES: class_names(images.samples)}
        assemble(parts, out, {"weights": config.weights, **provenance, **names})
        shutil.rmtree(folder)
    return f"{out}: features of {len(images) - len(bad)} samples, {len(bad)} left out"


def places_of(config: EmbedConfig) -> tuple[list[str], Path, Path]:
    """The shards, the file to write and the folder of its parts.

    Raises:
        ValueError: the flags do not name shards and a file, or have a number below 1.
        FileExistsError: the file is there.
    """
    if len(config.paths) < 2 or not config.paths[-1].endswith(".parquet"):
        raise ValueError(
            f"{' '.join(config.paths)!r} must be shards, then the file to write: SHARDS OUT.parquet"
        )
    for name, value in (("piece", config.piece), ("data.batch_size", config.data.batch_size)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if config.tiles == "rows" and config.data.fit != "tiles":
        raise ValueError(f"tiles=rows with data.fit={config.data.fit}: give --data.fit tiles")
    *spec, last = config.paths
    out = Path(last)
    folder = out.with_name(f"{out.name}.parts")
    if out.exists():
        raise FileExistsError(
            f"{out} exists and is never overwritten; delete it and {folder}, or name another file"
        )
    return spec, out, folder


@dataclass(frozen=True)
class Piece:
    """Samples whose features are one part: their batches, and the file of the part."""

    batches: list[range]
    part: Path


def pieces_of(samples: int, size: int, batch_size: int, folder: Path) -> list[Piece]:
    """All samples, in pieces.

    Args:
        samples: the number of all of them.
        size: samples of a piece.
        batch_size: samples of a batch.
        folder: of the parts.
    """
    return [
        Piece(cut(run, batch_size), folder / f"part-{i:07d}.parquet")
        for i, run in enumerate(cut(range(samples), size))
    ]


def cut(samples: range, size: int) -> list[range]:
    """Cut samples into runs of `size`, pieces or batches; the last one may be smaller."""
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def contents_of(samples: ShardSamples) -> dict[str, Any]:
    """How many samples there are, and a hash of their shards, to tell them from others."""
    shards = json.dumps([(shard.url, shard.sha256) for shard in samples.shards])
    return {
        "samples": len(samples),
        "shards_sha256": hashlib.sha256(shards.encode()).hexdigest(),
    }


def unfinished(
    pieces: Sequence[Piece],
    folder: Path,
    plan: Mapping[str, Any],
    bad: BadSamples,
    accelerator: Accelerator,
) -> list[Piece]:
    """The pieces that have no part yet.

    Args:
        pieces: all of them.
        folder: of the parts; it is made, and the plan written into it, where there is none.
        plan: what the parts depend on, to be written as JSON.
        bad: takes in the samples that finished parts have left out.
        accelerator: of the processes, each of which has to call it.

    Raises:
        OSError: the folder cannot be used.
        ValueError: the folder holds parts of another plan; too many bad samples.
    """
    file = folder / PLAN
    wanted = json.loads(json.dumps(plan))
    progress = None
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            write_json(file, wanted, compact=True)
        lacking = {i: left_out(p.part) for i, p in enumerate(pieces) if p.part.exists()}
        progress = json.loads(file.read_text()), lacking
    # one process looks, or those that see another disk would divide the rest otherwise
    (progress,) = broadcast_object_list([progress])
    assert progress is not None
    written, finished = progress
    if changed := differences(written, wanted, ()):
        raise ValueError(
            f"{folder} holds parts of another command ({'; '.join(changed)}): repeat that one, or"
            " delete the folder"
        )
    if finished:
        accelerator.print(f"{folder}: {len(finished)} of {len(pieces)} parts are there already")
    for sample in bad.add(sample for samples in finished.values() for sample in samples):
        accelerator.print(f"skipped {sample}")
    return [piece for i, piece in enumerate(pieces) if i not in finished]


def left_out(part: Path) -> list[BadSample]:
    """The bad samples that a part has no features of."""
    metadata = arrow().parquet.read_schema(part).metadata
    return [BadSample(*sample) for sample in json.loads(metadata[BAD.encode()])]


@torch.no_grad()
def write_pieces(
    pieces: Sequence[Piece],
    rows: Callable[[Mapping[str, Any]], Any],
    images: ShardImages,
    bad: BadSamples,
    workers: int,
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
    batches = iter(batch_loader(images, items, workers=workers))
    rounds = range(-(-len(pieces) // world))
    quiet = not (accelerator.is_main_process and sys.stderr.isatty())
    # in step, so that the bad samples of all count, and no process waits long for another
    for turn in tqdm(rounds, desc="features", unit="round", disable=quiet):
        skipped = list[BadSample]()
        for piece in mine[turn : turn + 1]:  # the last round may have none for this process
            tables = []
            for batch in islice(batches, len(piece.batches)):
                tables.append(rows(batch))
                skipped += batch["bad"]
            noted = {BAD: json.dumps([astuple(sample) for sample in skipped])}
            table = arrow().concat_tables(tables).replace_schema_metadata(noted)
            write_part(table, piece.part)
        for sample in bad.add(gather_object(skipped)):
            accelerator.print(f"skipped {sample}")


def write_part(table: Any, part: Path) -> None:
    """Write one part, whole or not at all; a process that outlived its launcher may do so too."""
    with replacing(part) as partial:
        arrow().parquet.write_table(table, partial, use_dictionary=DICTIONARY)


def assemble(parts: Sequence[Path], out: Path, provenance: Mapping[str, Any]) -> None:
    """Put the parts together, each as a row group, with only one of them in memory.

    Labels are integers if all of them are, otherwise text.

    Args:
        parts: all of them, in order.
        out: the file to write.
        provenance: what the features were made with, for the metadata of the schema.

    Raises:
        OSError: a part is not there, or the file cannot be written.
    """
    parquet = arrow().parquet
    for part in parts:
        if not part.exists():
            raise FileNotFoundError(
                f"{part} is missing: all processes have to write into one folder, on a disk that"
                " their nodes share"
            )
    numbers = all(
        text is None or to_integer(text) is not None
        for part in parts
        for text in parquet.read_table(part, columns=["label"])["label"].unique().to_pylist()
    )
    schema = parquet.read_schema(parts[0])
    label = schema.get_field_index("label")
    schema = schema.set(label, arrow().field("label", "int64" if numbers else "string"))
    schema = schema.with_metadata(to_metadata(provenance))
    with (
        replacing(out, staging=parts[0].parent) as partial,
        parquet.ParquetWriter(partial, schema, use_dictionary=DICTIONARY) as writer,
    ):
        for part in parts:
            table = parquet.ParquetFile(part).read()
            texts = table["label"].to_pylist()
            labels = [text and to_integer(text) for text in texts] if numbers else texts
            column = arrow().array(labels, schema.field(label).type)
            writer.write_table(table.set_column(label, schema.field(label), column))
