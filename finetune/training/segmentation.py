"""Fine-tuning for segmentation: a mask for each image, training on them, measuring pixels."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from data.config import IGNORED
from data.dataset import ShardImages
from data.fitting import Fitted
from data.pixel_labels import MaskedCrop, MaskTarget
from data.shards.samples import ShardSamples
from data.transforms import Crop
from fcmae.run.processes import Processes
from fcmae.weights.metadata import Metadata
from finetune.frozen.held_out import sides
from finetune.labels.config import LabelledData
from finetune.labels.inference import Inference, images_for
from finetune.labels.labelled import Chosen, check_apart, read_groups, samples_of
from finetune.labels.masks import check_masks
from finetune.labels.names import class_names, refuse_other_numbers
from finetune.labels.pixel_metrics import confusion_of, draw_samples, of_pixels
from finetune.labels.results import Picture
from finetune.models import segmenter
from finetune.training.augment import Mix
from finetune.training.config import WEIGHTS, SegmentConfig, run_of
from finetune.training.loop import fit

PICTURE = "samples.png"


def segment(
    config: SegmentConfig, processes: Processes, accelerator: Accelerator
) -> tuple[dict[str, Any], Picture]:
    """Fine-tune and measure.

    Args:
        config: of the program.
        processes: that were launched.
        accelerator: of these processes.

    Returns:
        What is to be reported, and what draws the picture.

    Raises:
        OSError, ValueError, FloatingPointError: see `finetune.training.loop.fit`.
    """
    data = config.data
    verify = config.run.verify
    directory = run_of(config.out)
    if data.fit == "tiles":
        raise ValueError("data.fit=tiles gives several masks a sample: take crop, pad or squash")
    mix = Mix(config.augment, 0.0, None)
    samples = samples_of(data.train, data, verify)
    names = names_of(class_names(samples), config.classes, config.mask_values)
    model, start = segmenter.create(
        config, len(names), config.head_width, config.seed, accelerator.print
    )
    metadata = data.given(start)  # the file of the fine-tuned weights tells it
    target = MaskTarget(len(names), metadata.image_size, config.mask_values)
    look_at = partial(
        check_masks,
        target=target,
        names=names,
        config=data,
        accelerator=accelerator,
    )
    refuse_other_numbers(samples)
    look_at(samples)
    if config.report_on == "test":
        test = samples_of(data.test, data, verify)
        check_apart(samples.shards, test.shards)
        refuse_other_numbers(test)
        look_at(test)
    group = data.group if config.report_on == "held_out" else ""  # else no group has to be read
    groups = groups_of(samples, group, accelerator)
    chosen, validation = sides(groups, config.report_on, data.held_out, config.seed)
    crop = MaskedCrop(Crop(config.augment.scale, config.augment.flip))
    images = images_of(
        data.train, data, metadata, target, crop=crop, seed=config.seed, verify=verify
    )
    fit(
        model,
        pixel_loss,
        Chosen(images, chosen),
        config,
        metadata=start,
        mix=mix,
        processes=processes,
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        segmenter.save(directory / WEIGHTS, model, metadata, names)
    spec = data.test if validation is None else data.train
    crop = MaskedCrop(Fitted(data.fit, metadata.mean))
    images = images_of(spec, data, metadata, target, crop=crop, verify=verify)
    unseen = Chosen(
        images, torch.arange(len(images)) if validation is None else validation, replace=False
    )
    inference = Inference(unseen, metadata, data, accelerator, doing="testing the model")
    matrix, skipped = confusion_of(model, inference, len(names))
    result = {
        "weights": config.weights,
        "model": metadata.model,
        "image_size": metadata.image_size,
        "train_samples": len(chosen),
        f"{config.report_on}_samples": len(unseen) - skipped,
        "skipped_samples": skipped,
        **of_pixels(names, matrix),
    }
    return result, (directory / PICTURE, partial(draw_samples, model=model, inference=inference))


def groups_of(samples: ShardSamples, group: str, accelerator: Accelerator) -> Int[Tensor, " n"]:
    """The groups of all samples by this json field; each is its own group without a field.

    Raises:
        OSError: a shard cannot be read.
        ValueError: a sample lacks the field.
    """
    groups = None
    if accelerator.is_main_process:  # the others need not read all of it too
        groups = read_groups(samples, range(len(samples)), group)
    (groups,) = broadcast_object_list([groups])
    assert isinstance(groups, Tensor)
    return groups


def names_of(
    named: Sequence[str], classes: int | None, values: Sequence[int] = ()
) -> Sequence[str]:
    """The names of the classes: those of classes.json, or the numbers of `classes` classes.

    Args:
        named: the names in classes.json, if there is one.
        classes: how many there are, if it is given.
        values: the value of a mask that stands for each class; empty if they are its numbers.

    Raises:
        ValueError: nothing says how many there are, or two say otherwise; too many for a mask; a
            value twice, or one that a mask cannot have.
    """
    if len(set(values)) < len(values) or not all(0 <= value <= IGNORED for value in values):
        raise ValueError(
            f"mask_values={' '.join(map(str, values))} must be different values from 0 to {IGNORED}"
        )
    if not named and classes is None and not values:
        raise ValueError(
            "no classes.json beside the training shards: give --classes, or --mask_values"
        )
    if named and classes not in (None, len(named)):
        raise ValueError(
            f"classes={classes}, but classes.json names {len(named)}: leave --classes out"
        )
    names = named or [str(i) for i in range(classes or len(values))]
    if values and len(values) != len(names):
        raise ValueError(f"mask_values has {len(values)} values for {len(names)} classes")
    if not 2 <= len(names) <= IGNORED:
        raise ValueError(f"there are {len(names)} classes: a mask tells 2 to {IGNORED} apart")
    return names


def images_of(
    spec: tuple[str, ...],
    data: LabelledData,
    metadata: Metadata,
    target: MaskTarget,
    *,
    crop: MaskedCrop,
    seed: int = 0,
    verify: bool,
) -> ShardImages:
    """The images of shards as the model takes them, with their masks.

    Args:
        spec: the shards, of the training or of the test.
        data: how they are read.
        metadata: how the model takes images.
        target: the masks.
        crop: what is cut out of an image and its mask.
        seed: of random crops.
        verify: compare the shards with their SHA-256.

    Raises:
        OSError, ValueError: see `data.shards.reading.open_shards`.
    """
    samples = samples_of(spec, data, verify)
    return images_for(samples, data, metadata, seed=seed, joint_crop=crop, target=target)


def pixel_loss(
    logits: Float[Tensor, "b k h w"], masks: UInt8[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """Cross-entropy, its mean over the pixels that are not ignored; zero where all are."""
    total = F.cross_entropy(logits, masks.long(), ignore_index=IGNORED, reduction="sum")
    return total / (masks != IGNORED).sum().clamp_min(1)
