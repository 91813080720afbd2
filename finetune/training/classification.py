"""Fine-tuning on labels of whole images: what there is to learn, training on it, measuring.

`finetune.train` does it once, `finetune.few_shot` many times on parts of the labels.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from jaxtyping import Int
from torch import Tensor

from data.bad_samples import BadSample, BadSamples
from data.dataset import Crops, ShardImages
from data.shards.samples import ShardSamples
from fcmae.run.processes import Processes
from fcmae.weights.metadata import Metadata
from finetune.labels.config import LabelledData, TaskConfig
from finetune.labels.inference import Inference, images_for
from finetune.labels.labelled import (
    Chosen,
    Labelled,
    check_apart,
    lists_rows,
    read_labelled,
    samples_of,
)
from finetune.labels.metrics import draw_confusion, measure
from finetune.labels.names import class_names, refuse_other_numbers
from finetune.labels.results import Picture
from finetune.labels.tasks import Loss, Task, make_task, target_of
from finetune.models import classifier
from finetune.training.augment import AugmentedCrop, Mix
from finetune.training.config import WEIGHTS, Side, TrainConfig, run_of
from finetune.training.loop import fit

CONFUSION = "confusion.png"


@dataclass(frozen=True)
class TrainingSamples(Labelled):
    """The training samples whose labels can be read, and what there is to learn of them.

    `unlabelled` are those whose labels cannot be read.
    """

    task: Task
    unlabelled: tuple[BadSample, ...] = ()


def read(
    data: LabelledData,
    task: TaskConfig,
    accelerator: Accelerator,
    *,
    report_on: Side,
    verify: bool,
) -> TrainingSamples:
    """The labels of the training data, and what there is to learn; those of the test are checked.

    Args:
        data: the shards, and how they are read.
        task: what they are labelled with.
        accelerator: of the processes, each of which has to call it.
        report_on: the test data are only looked at if they will be reported on.
        verify: compare the shards with their SHA-256.

    Raises:
        OSError: shards cannot be read.
        ValueError: a sample has no label or group, labels and classes do not fit, or the test data
            have shards or lack classes of the training data.
    """
    samples = samples_of(data.train, data, verify)
    test = None
    if report_on == "test":
        test = samples_of(data.test, data, verify)
        check_apart(samples.shards, test.shards)
    if task.kind == "labels":
        for side in (samples, test or samples):
            refuse_other_numbers(side)
    found = None
    if accelerator.is_main_process:  # the others need not read all of it too
        found = read_training(samples, data, task)
        if found.task.rows:
            accelerator.print(f"json field {task.field!r} is read as a zero or one for each label")
        for sample in found.unlabelled:
            accelerator.print(f"skipped {sample}")
        if test is not None:
            check_labels(test, found.task, data.max_bad_fraction)
    (found,) = broadcast_object_list([found])
    assert found is not None
    return found


def read_training(samples: ShardSamples, data: LabelledData, task: TaskConfig) -> TrainingSamples:
    """The labels of the training data, and what there is to learn.

    Raises:
        OSError, ValueError: see `read`.
    """
    named = [] if task.kind == "class" and task.field else class_names(samples)
    classes = task.classes or len(named)
    target = target_of(task.kind, task.field, classes)
    rows = task.kind == "labels" and lists_rows(samples, task.field, classes)
    if rows:
        target = target_of(task.kind, task.field, classes, rows=True)
    bad = BadSamples(len(samples), data.max_bad_fraction)
    labelled = read_labelled(samples, target, data.group, bad)
    return TrainingSamples(
        labelled.labels,
        labelled.samples,
        labelled.groups,
        make_task(task, named, labelled.labels, " ".join(data.train), rows=rows),
        tuple(bad.met),
    )


def check_labels(test: ShardSamples, task: Task, max_bad_fraction: float) -> None:
    """Check the labels of the test data before anything is learned.

    Raises:
        OSError: a shard cannot be read.
        ValueError: a sample that can be read has no label, or is of a class that was not learned.
    """
    labels = read_labelled(test, task.target, "", BadSamples(len(test), max_bad_fraction)).labels
    unknown = labels[labels >= task.outputs].unique() if task.kind == "class" else torch.empty(0)
    if len(unknown):
        raise ValueError(
            f"{test.shards[0].url} and the others have classes {unknown.tolist()} that the training"
            " data lacks: add samples of them to --data.train, or leave them out of --data.test"
        )


def train(
    config: TrainConfig,
    labelled: TrainingSamples,
    chosen: Int[Tensor, " k"],
    validation: Int[Tensor, " m"] | None,
    processes: Processes,
    accelerator: Accelerator,
) -> tuple[dict[str, Any], Picture | None]:
    """Fine-tune on some of the training samples, and measure.

    Args:
        config: of the program.
        labelled: the training samples.
        chosen: places among them to learn from.
        validation: places among them to report on; None for the test data.
        processes: that were launched.
        accelerator: of these processes.

    Returns:
        What is to be reported, and what draws the picture, if one belongs to it.

    Raises:
        OSError: shards or weights cannot be read, or the run not be written.
        ValueError: the config does not fit the data, or an earlier run in the same directory.
        FloatingPointError: the loss is not finite.
    """
    data = config.data
    task = labelled.task
    directory = run_of(config.out)
    assert config.pool != "stages"
    model, start = classifier.create(
        config, task.outputs, config.seed, accelerator.print, config.pool
    )
    metadata = data.given(start)  # the file of the fine-tuned weights tells it
    classes = task.outputs if task.kind == "class" else None
    crop = AugmentedCrop(config.augment, metadata.mean, metadata.in_chans, metadata.pixels)
    images = images_of(data.train, data, metadata, task, seed=config.seed, crop=crop)
    fit(
        model,
        Loss(task, config.task, labelled.labels[chosen], accelerator.device),
        Chosen(images, labelled.samples[chosen]),
        config,
        metadata=start,
        mix=Mix(config.augment, config.task.smoothing, classes),
        processes=processes,
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        classifier.save(directory / WEIGHTS, model, metadata, task)
    unseen = to_report_on(data, labelled, validation, metadata)
    inference = Inference(unseen, metadata, data, accelerator, doing="testing the model")
    outputs = inference.outputs(model, lambda x: task.answers(model(x).float()))
    answers = outputs.rows[outputs.whole]
    labels = outputs.labels[outputs.whole]
    draw = None
    if task.kind == "class":
        draw = (
            directory / CONFUSION,
            partial(draw_confusion, names=task.names, p=answers, y=labels),
        )
    result = {
        "weights": config.weights,
        "model": metadata.model,
        "pool": metadata.pool,
        "image_size": metadata.image_size,
        "train_samples": len(chosen),
        "skipped_train_samples": len(labelled.unlabelled),
        f"{config.report_on}_samples": len(labels),
        "skipped_samples": int((~outputs.whole).sum()),
        **measure(task, answers, labels),
    }
    return result, draw


def to_report_on(
    data: LabelledData,
    labelled: TrainingSamples,
    validation: Int[Tensor, " m"] | None,
    metadata: Metadata,
) -> Chosen:
    """The samples to report on: the test data, or what is held out of the training data.

    Args:
        data: the shards, and how they are read.
        labelled: the training samples.
        validation: places among them; None for the test data.
        metadata: how the model takes images.
    """
    if validation is None:
        images = images_of(data.test, data, metadata, labelled.task)
        return Chosen(images, torch.arange(len(images)), replace=False)
    images = images_of(data.train, data, metadata, labelled.task)
    return Chosen(images, labelled.samples[validation], replace=False)


def images_of(
    spec: tuple[str, ...],
    data: LabelledData,
    metadata: Metadata,
    task: Task,
    *,
    seed: int = 0,
    crop: Crops | None = None,
) -> ShardImages:
    """The images of shards as the model takes them, with their labels.

    Args:
        spec: the shards, of the training or of the test.
        data: how they are read.
        metadata: how the model takes images.
        task: of the labels.
        seed: of random crops.
        crop: a random crop; None for the whole picture as `data.fit` says.

    Raises:
        OSError, ValueError: see `data.shards.reading.open_shards`.
    """
    samples = samples_of(spec, data)
    return images_for(samples, data, metadata, seed=seed, crop=crop, target=task.target)
