"""Fine-tuning on labels of whole images: what there is to learn, training on it, the report.

`finetune.train` does it once, `finetune.few_shot` many times on parts of the labels.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from jaxtyping import Int
from torch import Tensor

from data.bad_samples import BadSamples
from data.pipeline import Crops, ShardImages
from data.shards.reading import open_shards
from data.shards.samples import ShardSamples
from fcmae.run.processes import Processes
from fcmae.weights.metadata import Metadata
from finetune.frozen.held_out import held_out
from finetune.labels.inference import Inference
from finetune.labels.labelled import Chosen, Labelled, LabelledData, class_names, read_labelled
from finetune.labels.metrics import draw_confusion, measure
from finetune.labels.tasks import Loss, Task, TaskConfig, make_task, target_of
from finetune.models import classifier
from finetune.models.classifier import BackboneConfig
from finetune.training.augment import AugmentedCrop, Mix
from finetune.training.loop import FitConfig, fit, run_of

WEIGHTS, CONFUSION = "weights.safetensors", "confusion.png"


@dataclass(frozen=True, kw_only=True)
class TrainConfig(FitConfig, BackboneConfig):
    """Fine-tuning."""

    data: LabelledData
    out: Path
    """The JSON file to write; the run lies in a directory of its name, without .json."""
    task: TaskConfig = field(default_factory=TaskConfig)
    report_on: Literal["test", "held_out"] = "test"
    """held_out: learn from the training data without a share of it, data.held_out, and report on
    that share; for choosing hyper-parameters, since the test data is not read then."""


@dataclass(frozen=True)
class TrainingSamples(Labelled):
    """The training samples whose labels can be read, and what there is to learn of them."""

    task: Task


def read(config: TrainConfig, accelerator: Accelerator) -> TrainingSamples:
    """The labels of the training data, and what there is to learn.

    Raises:
        OSError: shards cannot be read.
        ValueError: a sample has no label or group, or labels and classes do not fit.
    """
    shards = open_shards(config.data.train, config.run.verify, config.data.source)
    samples = ShardSamples(shards, config.data.source)
    named = class_names(samples)
    classes = config.task.classes or len(named)
    target = target_of(config.task.kind, config.task.field, classes)
    found = None
    if accelerator.is_main_process:  # the others need not read all of it too
        bad = BadSamples(len(samples), config.data.max_bad_fraction)
        found = read_labelled(samples, target, config.data.group, bad)
    (found,) = broadcast_object_list([found])
    assert found is not None
    task = make_task(config.task, named, found.labels, " ".join(config.data.train))
    return TrainingSamples(found.labels, found.samples, found.groups, task)


def sides(
    config: TrainConfig, labelled: TrainingSamples
) -> tuple[Int[Tensor, " k"], Int[Tensor, " m"] | None]:
    """Places of the samples to learn from, and of those held out, if it is them to report on.

    Raises:
        ValueError: holding a share out leaves one side empty.
    """
    places = torch.arange(len(labelled.samples))
    if config.report_on == "test":
        return places, None
    generator = torch.Generator().manual_seed(config.seed)
    out = held_out(labelled.groups, config.data.held_out, generator)
    return places[~out], places[out]


def train(
    config: TrainConfig,
    labelled: TrainingSamples,
    chosen: Int[Tensor, " k"],
    held: Int[Tensor, " m"] | None,
    processes: Processes,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Fine-tune on some of the training samples and measure; what is to be reported.

    Args:
        config: of the program.
        labelled: the training samples.
        chosen: places among them to learn from.
        held: places to report on, in place of the test.
        processes: that were launched.
        accelerator: made of them.

    Raises:
        OSError: shards or weights cannot be read, or the run not be written.
        ValueError: the config does not fit the data, or an earlier run in the same directory.
        FloatingPointError: the loss is not finite.
    """
    data = config.data
    task = labelled.task
    directory = run_of(config.out)
    model, metadata = classifier.create(config, task.outputs, config.seed)
    classes = task.outputs if task.kind == "class" else None
    crop = AugmentedCrop(config.augment, metadata.mean, metadata.in_chans, data.pixels)
    images = images_of(config, data.train, metadata, task, crop)
    fit(
        directory,
        model,
        Loss(task, config.task, labelled.labels[chosen], accelerator.device),
        Chosen(images, labelled.samples[chosen]),
        config,
        metadata=metadata,
        mix=Mix(config.augment, config.task.smoothing, classes),
        max_bad_fraction=data.max_bad_fraction,
        workers=data.workers,
        processes=processes,
        accelerator=accelerator,
    )
    asked = to_report_on(config, labelled, held, metadata)
    found = Inference(asked, metadata, data, accelerator).outputs(model)
    answers, labels = task.answers(found.rows[found.whole]), found.labels[found.whole]
    check_labels(task, labels, asked)
    if accelerator.is_main_process:
        classifier.save(directory / WEIGHTS, model, metadata, task)
        if task.kind == "class":
            draw_confusion(directory / CONFUSION, task.names, answers, labels)
    return {
        "weights": config.weights,
        "model": metadata.model,
        "image_size": metadata.image_size,
        "train_samples": len(chosen),
        f"{config.report_on}_samples": len(labels),
        "skipped_samples": int((~found.whole).sum()),
        **measure(task, answers, labels),
    }


def to_report_on(
    config: TrainConfig,
    labelled: TrainingSamples,
    held: Int[Tensor, " m"] | None,
    metadata: Metadata,
) -> Chosen:
    """The test data, or what is held out of the training data."""
    if held is None:
        images = images_of(config, config.data.test, metadata, labelled.task)
        return Chosen(images, torch.arange(len(images)), replace=False)
    images = images_of(config, config.data.train, metadata, labelled.task)
    return Chosen(images, labelled.samples[held], replace=False)


def images_of(
    config: TrainConfig,
    spec: tuple[str, ...],
    metadata: Metadata,
    task: Task,
    crop: Crops | None = None,
) -> ShardImages:
    """The images of these shards as the model takes them, with their labels."""
    return ShardImages(
        ShardSamples(open_shards(spec, source=config.data.source), config.data.source),
        size=metadata.image_size,
        in_chans=metadata.in_chans,
        pixels=config.data.pixels,
        seed=config.seed,
        crop=crop,
        target=task.target,
    )


def check_labels(task: Task, labels: Tensor, images: Chosen) -> None:
    """Check the labels of what is to be reported on.

    Raises:
        ValueError: a sample that can be read has no label, or is of a class that was not learned.
    """
    missing = labels < 0 if task.kind == "class" else labels.isnan().any(1)
    shards = f"{images.images.samples.shards[0].url} and the others"
    if missing.any():
        raise ValueError(f"{int(missing.sum())} samples of {shards} have no label")
    if task.kind == "class" and (unknown := labels[labels >= task.outputs].unique()).any():
        raise ValueError(f"{shards} have classes {unknown.tolist()} that the training data lacks")
