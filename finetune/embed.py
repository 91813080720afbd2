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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from data.bad_samples import BrokenSamples
from data.decode import Pixels
from data.pipeline import ShardImages
from data.shards.reading import open_shards
from data.shards.sources import SourceConfig
from data.transforms import Normalise
from fcmae.run.config import differences, parse, run_program
from fcmae.run.files import move_into_place, replacing, write_json
from finetune.frozen.feature_file import arrow, to_metadata
from finetune.models.backbone import RandomConfig, backbone, sha256_of
from finetune.models.pooling import pooled

PLAN = "plan.json"  # in the folder of parts: what they depend on
DICTIONARY = ["url"]  # columns whose values repeat


@dataclass(frozen=True, kw_only=True)
class EmbedData:
    """How the images are read."""

    batch_size: int = 128
    """Images at a time, on each process."""
    workers: int = 2
    """Processes that decode images, for each process."""
    max_bad_fraction: float = 0.01
    """Share of the samples that may be broken. They are left out, counted and named."""
    pixels: Pixels = "uint8"
    """As data.pixels of the pretraining."""
    source: SourceConfig = field(default_factory=SourceConfig)


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
    data: EmbedData = field(default_factory=EmbedData)
    random: RandomConfig = field(default_factory=RandomConfig)
    piece: int = 1024
    """Samples whose features are written at once: what a kill costs a process at most, and a row
    group of the file."""


@torch.no_grad()
def embed(config: EmbedConfig, accelerator: Accelerator) -> str:
    """Write the file, and say what is in it.

    Raises:
        OSError, ValueError: shards or weights that cannot be used, too many broken samples, a file
            that exists, parts of another command.
        ModuleNotFoundError: see `arrow`.
    """
    if len(config.paths) < 2 or not config.paths[-1].endswith(".parquet"):
        raise ValueError(
            f"{' '.join(config.paths)!r} must be shards, then the file to write: SHARDS OUT.parquet"
        )
    *spec, last = config.paths
    out, data, device = Path(last), config.data, accelerator.device
    for name, value in (("piece", config.piece), ("data.batch_size", data.batch_size)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    folder = out.with_name(f"{out.name}.parts")
    if out.exists():
        raise FileExistsError(
            f"{out} exists and is never overwritten; delete it and {folder}, or name another file"
        )
    pa = arrow()
    model, metadata = backbone(config.weights, config.random)
    made = asdict(metadata) | {
        "pixels": data.pixels,
        "weights_sha256": sha256_of(model, metadata),
    }
    model = model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    normalise = Normalise(metadata.mean, metadata.std, metadata.in_chans).to(device)
    images = ShardImages(
        open_shards(spec, source=data.source),
        size=metadata.image_size,
        in_chans=metadata.in_chans,
        pixels=data.pixels,
        source=data.source,
    )
    pieces = cut(range(len(images)), config.piece)
    parts = [folder / f"part-{i:07d}.parquet" for i in range(len(pieces))]
    plan = {**made, "batch_size": data.batch_size, "piece": config.piece, **contents_of(images)}
    done = begin(folder, parts, plan, accelerator)
    if done:
        accelerator.print(f"{folder}: {len(done)} of {len(parts)} parts are there already")
    bad = BrokenSamples(len(images), data.max_bad_fraction)
    for message in bad.add(line for lines in done.values() for line in lines):
        accelerator.print(f"skipped {message}")
    world, rank = accelerator.num_processes, accelerator.process_index
    todo = [i for i in range(len(pieces)) if i not in done]
    rounds = [todo[start : start + world] for start in range(0, len(todo), world)]
    loader = DataLoader(
        images,
        batch_sampler=(
            [(0, sample) for sample in batch]
            for i in todo[rank::world]
            for batch in cut(pieces[i], data.batch_size)
        ),
        num_workers=data.workers,
    )
    batches = iter(loader)
    quiet = not (accelerator.is_main_process and sys.stderr.isatty())
    # in step, so that the broken samples of all count, and no process waits long for another
    for numbers in tqdm(rounds, desc="features", unit="round", disable=quiet):
        tables, broken = [], list[str]()
        for i in numbers[rank : rank + 1]:  # the last round may have none for this process
            for batch in islice(batches, len(cut(pieces[i], data.batch_size))):
                features = pooled(model, normalise(batch["image"].to(device)), "last")
                tables.append(to_rows(batch, features.cpu(), images))
                broken += filter(None, batch["broken"])
            noted = {"broken": json.dumps(broken)}
            write_part(pa.concat_tables(tables).replace_schema_metadata(noted), parts[i])
        for message in bad.add(gather_object(broken)):
            accelerator.print(f"skipped {message}")
    if accelerator.is_main_process:
        assemble(parts, out, {"weights": config.weights, **made})
        shutil.rmtree(folder)
    return f"{out}: features of {len(images) - len(bad.met)} samples, {len(bad.met)} left out"


def cut(samples: range, size: int) -> list[range]:
    """Into runs of `size`: samples into pieces, a piece into batches; the last may be smaller."""
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def contents_of(images: ShardImages) -> dict[str, Any]:
    """What tells these samples from others."""
    shards = json.dumps([(shard.url, shard.sha256) for shard in images.shards])
    return {
        "samples": len(images),
        "shards_sha256": hashlib.sha256(shards.encode()).hexdigest(),
    }


def begin(
    folder: Path, parts: Sequence[Path], plan: Mapping[str, Any], accelerator: Accelerator
) -> dict[int, list[str]]:
    """The numbers of the parts that are there, and the broken samples that each left out.

    Raises:
        ValueError: they are parts of another plan.
    """
    file, wanted, seen = folder / PLAN, json.loads(json.dumps(plan)), None
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            write_json(file, wanted, compact=True)
        read = arrow().parquet.read_schema
        done = {i: read(p).metadata[b"broken"] for i, p in enumerate(parts) if p.exists()}
        seen = json.loads(file.read_text()), {i: json.loads(text) for i, text in done.items()}
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


def to_rows(batch: Mapping[str, Any], features: Float[Tensor, "b d"], images: ShardImages) -> Any:
    """The table of a batch, without broken samples."""
    pa = arrow()
    flat = pa.array(features.flatten().numpy())
    columns = {
        "url": [images.locate(sample)[0].url for sample in batch["sample"].tolist()],
        "key": batch["key"],
        "label": pa.array([None if y < 0 else y for y in batch["label"].tolist()], pa.int64()),
        "feature": pa.FixedSizeListArray.from_arrays(flat, features.shape[1]),
    }
    return pa.table(columns).filter(pa.array([not line for line in batch["broken"]]))


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
