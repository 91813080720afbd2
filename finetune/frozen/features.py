"""Features of labelled shards, extracted once and pooled to one vector an image."""

import hashlib
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from jaxtyping import Float, Int
from torch import Tensor, nn

from data.dataset import ShardImages
from fcmae.run.terminal import say
from fcmae.weights.metadata import Metadata
from finetune.frozen.config import ProbeConfig
from finetune.frozen.feature_cache import keep, read_kept
from finetune.frozen.figures import figures_of
from finetune.labels.config import LabelledData
from finetune.labels.inference import Inference, Outputs, images_for
from finetune.labels.labelled import (
    check_apart,
    numbered,
    read_classes,
    read_groups,
    samples_of,
    without_label,
)
from finetune.models.backbone import backbone, sha256_of, to_device
from finetune.models.compiled import Forward
from finetune.models.pooling import pooled_with_distance

DISTANCE = "distance"  # in the cache, beside the features x, their classes y, and which are whole


@dataclass(frozen=True)
class Features:
    """Features `x`, classes `y` and groups: one row a sample, in the order of the shards."""

    x: Float[Tensor, "n d"]
    y: Int[Tensor, " n"]
    groups: Int[Tensor, " n"]

    def take(self, chosen: Tensor) -> "Features":
        """The samples at these indices, or under this mask."""
        return Features(self.x[chosen], self.y[chosen], self.groups[chosen])


def labelled_features(
    config: ProbeConfig, accelerator: Accelerator
) -> tuple[Features, Features, dict[str, Any]]:
    """Features of the training and of the test, and what a report says of them and their making.

    Raises:
        OSError: shards, weights or the cache cannot be used.
        ValueError: the same; missing labels, test classes that the training data lacks, or see
            `check_classes`.
    """
    model, metadata = backbone(config.weights, config.random, accelerator.print)
    to_device(model, accelerator.device)
    model.eval()
    images = [
        labelled_images(spec, metadata, config.data)
        for spec in (config.data.train, config.data.test)
    ]
    check_apart(*(side.samples.shards for side in images))
    sides = [look_up(side, model, metadata, config, accelerator) for side in images]
    check_sides(*(side.known_classes(config.data) for side in sides))
    (train, distances, train_skipped), (test, _, test_skipped) = (
        features_of(side, model, metadata, config, accelerator) for side in sides
    )
    check_sides(train.y, test.y)  # where all images of a class are broken, it is gone now
    provenance = {
        "weights": config.weights,
        "model": metadata.model,
        "step": metadata.step,
        "pool": config.pool,
        "image_size": metadata.image_size,
        "pixels": config.data.given(metadata).pixels,
        "train_samples": len(train.y),
        "test_samples": len(test.y),
        "skipped_samples": train_skipped + test_skipped,
        "classes": int(train.y.max()) + 1,
        **figures_of(train.x, distances),
    }
    return train, test, provenance


@dataclass(frozen=True)
class Side:
    """The images of the training or of the test, and their features as the cache has them, if any.

    `path` is the file of the cache, None without a cache.
    """

    images: ShardImages
    path: Path | None = None
    cached: dict[str, Tensor] | None = None

    def known_classes(self, data: LabelledData) -> Int[Tensor, " m"] | None:
        """The classes of its samples as far as they are known before an image is decoded.

        Raises:
            OSError, ValueError: see `read_classes`.
        """
        if self.cached is not None:
            return self.cached["y"][self.cached["whole"]]
        return read_classes(self.images.samples, data.group, data.max_bad_fraction)


def look_up(
    images: ShardImages,
    model: nn.Module,
    metadata: Metadata,
    config: ProbeConfig,
    accelerator: Accelerator,
) -> Side:
    """Look for the features of these images in the cache; every process has to call it."""
    if config.cache is None:
        return Side(images)
    path = config.cache / cache_name(images, model, metadata, config)
    # one process looks, or those that see another disk would wait for those that do not
    looking = accelerator.is_main_process
    kept = read_kept(path, say) if looking else None
    if kept is not None and DISTANCE not in kept:
        say(f"{path} is of an earlier version: the features are made again")
        kept = None
    (cached,) = broadcast_object_list([kept])
    return Side(images, path, cached)


def check_sides(train: Int[Tensor, " n"] | None, test: Int[Tensor, " m"] | None) -> None:
    """Check the classes of training and test, each as far as it is known.

    Raises:
        ValueError: a side has no sample, the training data lack a class of the test, or see
            `check_classes`.
    """
    for name, y in (("train", train), ("test", test)):
        if y is not None and not len(y):
            raise ValueError(f"no sample of --data.{name} can be used: all are broken")
    if train is None:
        return
    unknown = sorted(set(test.tolist()) - set(train.tolist())) if test is not None else []
    if unknown:
        raise ValueError(
            f"the test data has classes {unknown} that the training data lacks: add samples of them"
            " to --data.train, or leave them out of --data.test"
        )
    check_classes(train)


def check_classes(y: Int[Tensor, " n"]) -> None:
    """Check that every class up to the largest has a sample, and that there are two or more.

    Raises:
        ValueError: some have none, or there is but one class.
    """
    present = set(y.tolist())
    last = int(y.max())
    lacking = last + 1 - len(present)
    if lacking:
        named = islice((c for c in range(last) if c not in present), 10)  # a label may be huge
        more = ", ..." if lacking > 10 else ""
        raise ValueError(
            f"{lacking} of the classes 0 to {last} have no training sample"
            f" ({', '.join(map(str, named))}{more}): is a shard missing from --data.train? If not,"
            " number the classes without gaps"
        )
    if not last:
        raise ValueError(
            f"all {len(y)} training samples are of class 0: there is nothing to tell apart; add"
            " shards with another class to --data.train"
        )


def features_of(
    side: Side,
    model: nn.Module,
    metadata: Metadata,
    config: ProbeConfig,
    accelerator: Accelerator,
) -> tuple[Features, Float[Tensor, " n"], int]:
    """The features of these images, from the cache if it has them.

    Returns:
        The features, the distance of the last map's channels for each, see `pooled_with_distance`,
        and how many images were bad.

    Raises:
        OSError: shards or the cache cannot be used.
        ValueError: see `extract`; a sample without the field of its group.
    """
    group = config.data.group
    images, cached = side.images, side.cached
    if cached is None:
        forward = partial(pooled_with_distance, model, pool=config.pool)
        outputs = extract(model, Inference(images, metadata, config.data, accelerator), forward)
        cached = {
            "x": outputs.rows[:, :-1].contiguous(),
            DISTANCE: outputs.rows[:, -1].contiguous(),
            "y": outputs.labels,
            "whole": outputs.whole,
        }
        if side.path is not None and accelerator.is_main_process:
            keep(side.path, cached, say)
        kept = outputs.whole.nonzero().flatten()
        names = [outputs.groups[i] for i in kept.tolist()]
        groups = numbered(names, images.samples, kept.tolist(), group)
    else:
        kept = cached["whole"].nonzero().flatten()
        groups = read_groups(images.samples, kept.tolist(), group)
    features = Features(cached["x"][kept], cached["y"][kept], groups)
    return features, cached[DISTANCE][kept], len(images) - len(kept)


def cache_name(
    images: ShardImages, model: nn.Module, metadata: Metadata, config: ProbeConfig
) -> str:
    """The file that the cache has the features of these images in.

    It is a hash of what they depend on: shards, weights, metadata, pooling, how pictures are
    read and from which member, the share of bad samples that was let pass.
    """
    data = config.data
    # with the share, since features made under a laxer one may have too many bad samples
    shards = [shard.sha256 for shard in images.samples.shards]
    made_by = sha256_of(model, metadata)
    reading = asdict(data.fitted(metadata))
    made_of = (made_by, config.pool, data.image, reading, data.max_bad_fraction, shards)
    made_of += (images.samples.numbers,) if images.samples.numbers else ()
    key = hashlib.sha256(repr(made_of).encode())
    return f"{key.hexdigest()[:32]}.safetensors"


def labelled_images(spec: tuple[str, ...], metadata: Metadata, data: LabelledData) -> ShardImages:
    """The images of these shards as the backbone takes them, with the group that `data` names.

    Raises:
        OSError, ValueError: see `data.shards.reading.open_shards`.
    """
    return images_for(samples_of(spec, data), data, metadata, group=data.group)


def extract(model: nn.Module, inference: Inference, forward: Forward) -> Outputs:
    """What a model gives for all samples as rows, with their labels, Int[n].

    The processes share the work and each gets all of it.

    Args:
        model: on its device.
        inference: of the samples.
        forward: from images to rows.

    Raises:
        ValueError: a sample without a label, too many bad ones, or see `forward`.
    """
    outputs = inference.outputs(model, forward)
    unlabelled = outputs.whole & (outputs.labels < 0)
    if unlabelled.any():
        raise without_label(inference.images.name(int(unlabelled.nonzero()[0])))
    return outputs
