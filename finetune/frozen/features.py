"""Features of labelled shards, extracted once and pooled to one vector an image."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from jaxtyping import Bool, Float, Int
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor

from data.pipeline import ShardImages
from data.shards.reading import open_shards
from fcmae.run.files import replacing, write_json
from fcmae.weights.metadata import Metadata
from finetune.labels.inference import outputs_of
from finetune.labels.labelled import LabelledData
from finetune.models.backbone import RandomConfig, backbone, sha256_of
from finetune.models.pooling import Pool, pooled

RIDGE = 1e-3  # of the mean variance, in whitening
TINY = 1e-30  # features that do not vary at all stay zero


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """What linear probing and k-NN share."""

    weights: str
    """Converted weights, OUT.safetensors, or none for the random initialisation."""
    data: LabelledData
    out: Path
    """The JSON file to write."""
    cache: Path | None = None
    """Directory where features are kept for the next program that asks for the same ones."""
    pool: Pool = "last"
    """The last stage averaged over positions, or the averages of all four stages side by side."""
    random: RandomConfig = field(default_factory=RandomConfig)
    seeds: int = 3
    """Repetitions, each with its own held-out data and order; mean and spread are reported."""


@dataclass(frozen=True)
class Features:
    """One row a sample, in the order of the shards."""

    x: Float[Tensor, "n d"]
    y: Int[Tensor, " n"]
    groups: Int[Tensor, " n"]

    def take(self, chosen: Tensor) -> "Features":
        """The samples at these indices, or under this mask."""
        return Features(self.x[chosen], self.y[chosen], self.groups[chosen])


def labelled_features(
    config: ProbeConfig, accelerator: Accelerator
) -> tuple[Features, Features, dict[str, Any]]:
    """Train and test features, and what they were made with.

    Raises:
        OSError, ValueError: shards or weights that cannot be used, missing labels, test classes
            that the training data lacks, or see `check_classes`.
    """
    model, metadata = backbone(config.weights, config.random)
    model = model.to(accelerator.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    (train, train_skipped), (test, test_skipped) = (
        cached(spec, model, metadata, config, accelerator)
        for spec in (config.data.train, config.data.test)
    )
    unknown = sorted(set(test.y.tolist()) - set(train.y.tolist()))
    if unknown:
        raise ValueError(f"the test data has classes {unknown} that the training data lacks")
    check_classes(train.y)
    made = {
        "weights": config.weights,
        "model": metadata.model,
        "step": metadata.step,
        "pool": config.pool,
        "image_size": metadata.image_size,
        "train_samples": len(train.y),
        "test_samples": len(test.y),
        "skipped_samples": train_skipped + test_skipped,
        "classes": int(train.y.max()) + 1,
    }
    return train, test, made


def check_classes(y: Int[Tensor, " n"]) -> None:
    """Every class up to the largest has a sample.

    Raises:
        ValueError: some have none.
    """
    present, last = set(y.tolist()), int(y.max())
    lacking = last + 1 - len(present)
    if lacking:
        named = islice((c for c in range(last) if c not in present), 10)  # a label may be huge
        more = ", ..." if lacking > 10 else ""
        raise ValueError(
            f"{lacking} of the classes 0 to {last} have no training sample"
            f" ({', '.join(map(str, named))}{more}): is a shard missing from --data.train? If not,"
            " number the classes without gaps"
        )


def cached(
    spec: tuple[str, ...],
    model: torch.nn.Module,
    metadata: Metadata,
    config: ProbeConfig,
    accelerator: Accelerator,
) -> tuple[Features, int]:
    """The features of these shards, from the cache if it has them, and how many were broken.

    A file's name is a hash of what its contents depend on: shards, weights, metadata, pooling, the
    share of broken samples that was let pass.
    """
    data = config.data
    images = labelled_images(spec, metadata, data)
    path = None
    if config.cache is not None:
        # with the share, since features made under a laxer one may have too many broken samples
        shards = [shard.sha256 for shard in images.shards]
        made_by = sha256_of(model, metadata)
        made_of = (made_by, config.pool, data.pixels, data.max_bad_fraction, shards)
        key = hashlib.sha256(repr(made_of).encode())
        path = config.cache / f"{key.hexdigest()[:32]}.safetensors"
        # one process looks, or those that see another disk would wait for those that do not
        (found,) = broadcast_object_list(
            [load_file(path) if accelerator.is_main_process and path.exists() else None]
        )
    else:
        found = None
    if found is None:
        x, y, whole = extract(model, images, metadata, data, config.pool, accelerator)
        found = {"x": x, "y": y, "whole": whole}
        if path is not None and accelerator.is_main_process:
            with replacing(path) as partial:
                save_file(found, partial)
    kept = found["whole"].nonzero().flatten()
    groups = groups_of(images, data.group, kept.tolist())
    return Features(found["x"][kept], found["y"][kept], groups), len(images) - len(kept)


def labelled_images(spec: tuple[str, ...], metadata: Metadata, data: LabelledData) -> ShardImages:
    """The images of these shards as the backbone takes them; raises as `open_shards`."""
    return ShardImages(
        open_shards(spec, source=data.source),
        size=metadata.image_size,
        in_chans=metadata.in_chans,
        pixels=data.pixels,
        source=data.source,
    )


def extract(
    model: torch.nn.Module,
    images: ShardImages,
    metadata: Metadata,
    data: LabelledData,
    pool: Pool,
    accelerator: Accelerator,
) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"], Bool[Tensor, " n"]]:
    """Features and labels of all samples, and which were whole; broken ones have no meaning.

    The processes share the work and each gets all of it.

    Raises:
        ValueError: a sample without a label, too many broken ones, or see `pooled`.
    """
    forward = partial(pooled, model, pool=pool)
    x, y, whole = outputs_of(forward, images, metadata, data, accelerator)
    unlabelled = whole & (y < 0)
    if unlabelled.any():
        shard, members = images.read(int(unlabelled.nonzero()[0]))
        raise ValueError(
            f"{shard.url}: sample {members['__key__']!r} has no label (.cls);"
            " scripts/make_shards.py labels images by their sub-folders"
        )
    return x, y, whole


def groups_of(images: ShardImages, name: str, samples: Sequence[int]) -> Int[Tensor, " n"]:
    """A number for each value of json field `name`; every sample is its own group without a name.

    Raises:
        ValueError: a sample lacks the field.
    """
    if not name:
        return torch.arange(len(samples))
    values = []
    for sample in samples:
        shard, members = images.read(sample)
        record = json.loads(members.get("json", "{}"))
        if name not in record:
            raise ValueError(
                f"{shard.url}: sample {members['__key__']!r} has no json field {name!r};"
                f" it has {', '.join(record) or 'none'}: correct --data.group"
            )
        values.append(str(record[name]))
    return torch.from_numpy(np.unique(values, return_inverse=True)[1])


def whiten(fit: Features, *others: Features) -> tuple[Features, ...]:
    """Zero mean and unit covariance (PCA whitening), both measured on `fit`.

    The features of a masked autoencoder share a few directions of large variance, which drown the
    rest in a cosine and slow a linear layer down. A thousandth of the mean variance is added to all
    directions, so that empty ones are not blown up. Source: Jegou and Chum, ECCV 2012.
    """
    mean = fit.x.double().mean(0)
    project = whitening(torch.cov((fit.x - mean).T), RIDGE)
    return tuple(Features(((f.x - mean) @ project).float(), f.y, f.groups) for f in (fit, *others))


def whitening(covariance: Float[Tensor, "d d"], ridge: float) -> Float[Tensor, "d d"]:
    """The projection to unit covariance; `ridge` mean variances are added to all directions."""
    variance, directions = torch.linalg.eigh(covariance)
    return directions / (variance + ridge * variance.mean()).clamp_min(TINY).sqrt()


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample standard deviation."""
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        "values": list(values),
    }


def report(name: str, result: dict[str, Any], out: Path, accelerator: Accelerator) -> None:
    """Write the result as JSON and show it as a table, on the main process.

    Raises:
        OSError: `out` cannot be written.
    """
    if not accelerator.is_main_process:
        return
    write_json(out, result)
    table = Table(title=f"{name}: {result['model']}, weights {result['weights']}")
    table.add_column("field")
    table.add_column("value")
    for key, value in result.items():
        if isinstance(value, dict) and "mean" not in value:
            continue  # a table of its own
        if isinstance(value, dict):
            value = f"{value['mean']:.4f} +- {value['std']:.4f} over {len(value['values'])} seeds"
        table.add_row(key, f"{value:.4f}" if isinstance(value, float) else str(value))
    Console().print(table)
