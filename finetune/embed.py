"""Features of every sample of shards, labelled or not, with its name, as a Parquet file.

    accelerate launch -m finetune.embed SHARDS OUT.parquet --weights OUT.safetensors

The samples are worked off in pieces, which the processes share. A finished piece is a file in
OUT.parquet.parts; the same command goes on from there after a kill. Batches are those of a piece,
so that the result depends neither on the processes nor on kills. `finetune.lookup` reads it.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from data.bad_samples import BadSample, BadSamples
from data.pipeline import ShardImages, batch_loader
from data.shards.reading import open_shards
from data.shards.samples import ShardSamples
from data.transforms import Normalise
from fcmae.run.config import differences, parse, run_program
from fcmae.run.files import move_into_place, replacing, write_json
from finetune.frozen.feature_file import arrow, to_metadata
from finetune.labels.inference import InferenceConfig
from finetune.models.backbone import RandomConfig, backbone, sha256_of, to_device
from finetune.models.pooling import pooled

PLAN = "plan.json"  # in the folder of parts: what they depend on
BAD = "broken"  # in the metadata of a part: those that it left out
DICTIONARY = ["url"]  # columns whose values repeat


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Features of every sample of shards, with its name, as a Parquet file.

    The same command goes on after a kill.
    """

    paths: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SHARDS OUT.parquet")
    ]
    """Shards, as paths, URLs or brace patterns; last the file to write."""
    weights: str
    """Converted weights, OUT.safetensors, or none for the random initialisation."""
    data: InferenceConfig = field(default_factory=InferenceConfig)
    random: RandomConfig = field(default_factory=RandomConfig)
    piece: int = 1024
    """Samples whose features are written at once: what a kill costs a process at most, and a row
    group of the file."""


def embed(config: EmbedConfig, accelerator: Accelerator) -> str:
    """Write the file, and say what is in it.

    Raises:
        OSError, ValueError: shards or weights that cannot be used, too many bad samples, a file
            that exists, parts of another command.
        ModuleNotFoundError: see `arrow`.
    """
    spec, out, folder = places_of(config)
    arrow()  # first of all, where it is missing
    model, metadata = backbone(config.weights, config.random)
    to_device(model.eval(), accelerator.device)
    made = asdict(metadata) | {
        "pixels": config.data.pixels,
        "weights_sha256": sha256_of(model, metadata),
    }
    images = ShardImages(
        ShardSamples(open_shards(spec, source=config.data.source), config.data.source),
        size=metadata.image_size,
        in_chans=metadata.in_chans,
        pixels=config.data.pixels,
    )
    pieces = pieces_of(images, folder, config)
    plan = {
        **made,
        "batch_size": config.data.batch_size,
        "piece": config.piece,
        **contents_of(images.samples),
    }
    done = begin(folder, [piece.part for piece in pieces], plan, accelerator)
    if done:
        accelerator.print(f"{folder}: {len(done)} of {len(pieces)} parts are there already")
    bad = BadSamples(len(images), config.data.max_bad_fraction)
    for sample in bad.add(sample for found in done.values() for sample in found):
        accelerator.print(f"skipped {sample}")
    todo = [piece for i, piece in enumerate(pieces) if i not in done]
    normalise = Normalise(metadata.mean, metadata.std, metadata.in_chans).to(accelerator.device)

    def features(x: Tensor) -> Tensor:
        return pooled(model, normalise(x.to(accelerator.device)), "last").cpu()

    write_pieces(todo, features, images, bad, config.data.workers, accelerator)
    if accelerator.is_main_process:
        assemble([piece.part for piece in pieces], out, {"weights": config.weights, **made})
        shutil.rmtree(folder)
    return f"{out}: features of {len(images) - len(bad)} samples, {len(bad)} left out"


def places_of(config: EmbedConfig) -> tuple[list[str], Path, Path]:
    """The shards, the file to write and the folder of its parts.

    Raises:
        ValueError: the flags do not say them, or numbers in them cannot be.
        FileExistsError: the file is there.
    """
    if len(config.paths) < 2 or not config.paths[-1].endswith(".parquet"):
        raise ValueError(
            f"{' '.join(config.paths)!r} must be shards, then the file to write: SHARDS OUT.parquet"
        )
    for name, value in (("piece", config.piece), ("data.batch_size", config.data.batch_size)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
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
    """Samples whose features are one part: the batches that they are taken in, and its file."""

    batches: list[range]
    part: Path


def pieces_of(images: ShardImages, folder: Path, config: EmbedConfig) -> list[Piece]:
    """All samples, in pieces."""
    runs = cut(range(len(images)), config.piece)
    return [
        Piece(cut(run, config.data.batch_size), folder / f"part-{i:07d}.parquet")
        for i, run in enumerate(runs)
    ]


def cut(samples: range, size: int) -> list[range]:
    """Into runs of `size`: samples into pieces, a piece into batches; the last may be smaller."""
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def contents_of(samples: ShardSamples) -> dict[str, Any]:
    """What tells these samples from others."""
    shards = json.dumps([(shard.url, shard.sha256) for shard in samples.shards])
    return {
        "samples": len(samples),
        "shards_sha256": hashlib.sha256(shards.encode()).hexdigest(),
    }


def begin(
    folder: Path, parts: Sequence[Path], plan: Mapping[str, Any], accelerator: Accelerator
) -> dict[int, list[BadSample]]:
    """The numbers of the parts that are there, and the bad samples that each left out.

    Raises:
        ValueError: they are parts of another plan.
    """
    file, wanted, seen = folder / PLAN, json.loads(json.dumps(plan)), None
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            write_json(file, wanted, compact=True)
        read = arrow().parquet.read_schema
        notes = {i: read(p).metadata[BAD.encode()] for i, p in enumerate(parts) if p.exists()}
        done = {i: [BadSample(*sample) for sample in json.loads(n)] for i, n in notes.items()}
        seen = json.loads(file.read_text()), done
    # one process looks, or those that see another disk would divide the rest otherwise
    (seen,) = broadcast_object_list([seen])
    assert seen is not None
    found, done = seen
    if changed := differences(found, wanted, ()):
        raise ValueError(
            f"{folder} holds parts of another command ({'; '.join(changed)}): repeat that one, or"
            " delete the folder"
        )
    return done


@torch.no_grad()
def write_pieces(
    pieces: Sequence[Piece],
    features: Callable[[Tensor], Tensor],
    images: ShardImages,
    bad: BadSamples,
    workers: int,
    accelerator: Accelerator,
) -> None:
    """Write the parts of pieces, one a process and round.

    Args:
        pieces: those that have no part yet.
        features: of a batch of images as they are decoded, on the CPU.
        images: that the pieces are of.
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
        found = list[BadSample]()
        for piece in mine[turn : turn + 1]:  # the last round may have none for this process
            tables = []
            for batch in islice(batches, len(piece.batches)):
                tables.append(to_rows(batch, features(batch["image"]), images.samples))
                found += batch["bad"]
            noted = {BAD: json.dumps([astuple(sample) for sample in found])}
            table = arrow().concat_tables(tables).replace_schema_metadata(noted)
            write_part(table, piece.part)
        for sample in bad.add(gather_object(found)):
            accelerator.print(f"skipped {sample}")


def to_rows(batch: Mapping[str, Any], features: Float[Tensor, "b d"], samples: ShardSamples) -> Any:
    """The table of a batch, without bad samples."""
    pa = arrow()
    flat = pa.array(features.flatten().numpy())
    columns = {
        "url": [samples.locate(sample)[0].url for sample in batch["sample"].tolist()],
        "key": batch["key"],
        "label": pa.array([None if y < 0 else y for y in batch["label"].tolist()], pa.int64()),
        "feature": pa.FixedSizeListArray.from_arrays(flat, features.shape[1]),
    }
    return pa.table(columns).filter(pa.array(batch["whole"].numpy()))


def write_part(table: Any, part: Path) -> None:
    """Write one part, whole or not at all; a process that outlived its launcher may do so too."""
    with replacing(part) as partial:
        arrow().parquet.write_table(table, partial, use_dictionary=DICTIONARY)


def assemble(parts: Sequence[Path], out: Path, made: Mapping[str, Any]) -> None:
    """Put the parts together, each as a row group, with only one of them in memory.

    Raises:
        FileNotFoundError: a part is not there.
    """
    parquet = arrow().parquet
    for part in parts:
        if not part.exists():
            raise FileNotFoundError(
                f"{part} is missing: all processes have to write into one folder, on a disk that"
                " their nodes share"
            )
    schema = parquet.read_schema(parts[0]).with_metadata(to_metadata(made))
    partial = parts[0].with_name(f"whole.{os.getpid()}.tmp")
    with parquet.ParquetWriter(partial, schema, use_dictionary=DICTIONARY) as writer:
        for part in parts:
            writer.write_table(parquet.ParquetFile(part).read())
    move_into_place(partial, out)


def main(argv: Sequence[str]) -> None:
    """Extract, and say what was written."""
    config = parse(EmbedConfig, argv, description=str(EmbedConfig.__doc__))
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    accelerator.print(embed(config, accelerator))
    accelerator.end_training()


if __name__ == "__main__":
    run_program(main)
