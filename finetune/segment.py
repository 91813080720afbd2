"""Fine-tune a pretrained encoder, or any timm ConvNet, to segment images, and report on a test.

    accelerate launch --quiet -m finetune.segment --weights OUT.safetensors \
        --data.train SHARDS --data.test SHARDS --out RESULT.json

A sample has its mask in the member seg.png, see data/pixel_labels.py. Restarting the same command
resumes. The run lies in RESULT/ beside RESULT.json: config, metrics, checkpoints, samples.png, and
weights.safetensors, which `finetune.models.segmenter.load` reads. Images and masks are measured as
the model takes them, in `image_size`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from jaxtyping import Float, UInt8
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from data.pipeline import ShardImages
from data.pixel_labels import IGNORED, MaskedCrop, MaskTarget
from data.shards.reading import open_shards
from data.shards.samples import ShardSamples
from data.transforms import Crop
from fcmae.run.config import parse, run_program
from fcmae.run.processes import Processes
from fcmae.run.session import start_accelerator
from fcmae.weights.metadata import Metadata
from finetune.frozen.held_out import held_out
from finetune.labels.inference import Inference
from finetune.labels.labelled import Chosen, LabelledData, class_names, read_groups
from finetune.labels.metrics import table_of
from finetune.labels.pixel_metrics import confusion_of, draw_samples, of_pixels
from finetune.labels.results import report
from finetune.models import segmenter
from finetune.models.classifier import BackboneConfig
from finetune.training.augment import AugmentConfig, Mix
from finetune.training.loop import FitConfig, fit, run_of

WEIGHTS, PICTURE = "weights.safetensors", "samples.png"


@dataclass(frozen=True, kw_only=True)
class SegmentConfig(FitConfig, BackboneConfig):
    """Fine-tuning for segmentation."""

    data: LabelledData
    out: Path
    """The JSON file to write; the run lies in a directory of its name, without .json."""
    classes: int | None = None
    """How many, where no classes.json beside the shards names them."""
    head_width: int = 128
    """Channels of the head, a multiple of 32."""
    head_init_scale: float = 1.0
    """The weights of the head's last layer, of standard deviation 0.02, times this."""
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(scale=(0.25, 1.0), rand_augment="", erasing=0.0)
    )
    report_on: Literal["test", "held_out"] = "test"
    """held_out: learn from the training data without a share of it, data.held_out, and report on
    that share; for choosing hyper-parameters, since the test data is not read then."""


def main(argv: Sequence[str]) -> None:
    """Train, in however many processes were launched, and report."""
    config = parse(SegmentConfig, argv, description=str(__doc__))
    config.run.check()
    directory = run_of(config.out)
    if config.augment.rand_augment:
        raise ValueError(
            f"augment.rand_augment={config.augment.rand_augment} would move pixels away from their"
            " mask: leave it out"
        )
    processes = Processes(config.run.timeout)
    with processes.naming_the_lost():
        accelerator = start_accelerator(processes, config.run.trackers, directory)
        result = train(config, processes, accelerator)
        if accelerator.is_main_process:
            Console().print(table_of(result["per_class"]))
        report("segmentation", result, config.out, accelerator)
        accelerator.end_training()


def train(config: SegmentConfig, processes: Processes, accelerator: Accelerator) -> dict[str, Any]:
    """Fine-tune and measure; what is to be reported.

    Args:
        config: of the program.
        processes: that were launched.
        accelerator: made of them.

    Raises:
        OSError, ValueError, FloatingPointError: see `finetune.training.loop.fit`.
    """
    data = config.data
    directory = run_of(config.out)
    mix = Mix(config.augment, 0.0, None)
    shards = open_shards(data.train, config.run.verify, data.source)
    samples = ShardSamples(shards, data.source)
    names = names_of(class_names(samples), config.classes)
    model, metadata = segmenter.create(config, len(names), config.head_width, config.seed)
    fitted, held = torch.arange(len(samples)), None
    if config.report_on == "held_out":
        # the processes need not read all of it each
        is_main = accelerator.is_main_process
        found = read_groups(samples, fitted.tolist(), data.group) if is_main else None
        (groups,) = broadcast_object_list([found])
        assert isinstance(groups, Tensor)
        generator = torch.Generator().manual_seed(config.seed)
        out = held_out(groups, data.held_out, generator)
        fitted, held = fitted[~out], fitted[out]
    boxes = Crop(config.augment.scale, config.augment.flip)
    images = images_of(config, data.train, metadata, len(names), boxes)
    fit(
        directory,
        model,
        pixel_loss,
        Chosen(images, fitted),
        config,
        metadata=metadata,
        mix=mix,
        max_bad_fraction=data.max_bad_fraction,
        workers=data.workers,
        processes=processes,
        accelerator=accelerator,
    )
    unseen = images_of(config, data.test if held is None else data.train, metadata, len(names))
    asked = Chosen(unseen, torch.arange(len(unseen)) if held is None else held, replace=False)
    inference = Inference(asked, metadata, data, accelerator)
    matrix, skipped = confusion_of(model, inference, len(names))
    if accelerator.is_main_process:
        segmenter.save(directory / WEIGHTS, model, metadata, names)
        draw_samples(directory / PICTURE, model, inference)
    return {
        "weights": config.weights,
        "model": metadata.model,
        "image_size": metadata.image_size,
        "train_samples": len(fitted),
        f"{config.report_on}_samples": len(asked) - skipped,
        "skipped_samples": skipped,
        **of_pixels(names, matrix),
    }


def names_of(named: Sequence[str], classes: int | None) -> Sequence[str]:
    """The names of the classes: those of classes.json, or the numbers of `classes` classes.

    Raises:
        ValueError: neither says how many there are, or the two differ; too many for a mask.
    """
    if not named and classes is None:
        raise ValueError("no classes.json beside the training shards: give --classes")
    if named and classes not in (None, len(named)):
        raise ValueError(
            f"classes={classes}, but classes.json names {len(named)}: leave --classes out"
        )
    names = named or [str(i) for i in range(classes or 0)]
    if not 2 <= len(names) <= IGNORED:
        raise ValueError(f"there are {len(names)} classes: a mask tells 2 to {IGNORED} apart")
    return names


def images_of(
    config: SegmentConfig,
    spec: tuple[str, ...],
    metadata: Metadata,
    classes: int,
    boxes: Crop | None = None,
) -> ShardImages:
    """The images of these shards as the model takes them, with their masks."""
    shards = open_shards(spec, config.run.verify, config.data.source)
    return ShardImages(
        ShardSamples(shards, config.data.source),
        size=metadata.image_size,
        in_chans=metadata.in_chans,
        pixels=config.data.pixels,
        seed=config.seed,
        joint_crop=MaskedCrop(boxes),
        target=MaskTarget(classes, metadata.image_size),
    )


def pixel_loss(
    logits: Float[Tensor, "b k h w"], masks: UInt8[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """Cross-entropy, its mean over the pixels that are not ignored; zero where all are."""
    total = F.cross_entropy(logits, masks.long(), ignore_index=IGNORED, reduction="sum")
    return total / (masks != IGNORED).sum().clamp_min(1)


if __name__ == "__main__":
    run_program(main)
