"""The loop of fine-tuning: a model with a head, a loss, samples; resumable, over processes.

Crops and augmentations are functions of (seed, epoch, sample), and the order of samples of (seed,
epoch), as in pretraining; stochastic depth is a function of (seed, step, rank). A run that was
stopped ends as one that was not.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from data.bad_samples import BadSamples
from data.order import GlobalBatches, Order
from data.pipeline import batch_loader
from data.transforms import Normalise
from fcmae.run import checkpoint
from fcmae.run.directory import compare
from fcmae.run.learner import Learner
from fcmae.run.optim import OptimConfig
from fcmae.run.options import RunConfig
from fcmae.run.processes import Processes
from fcmae.run.session import Session, distribute, newest_checkpoint, resume
from fcmae.weights.metadata import Metadata
from finetune.labels.labelled import Chosen
from finetune.models.backbone import to_device
from finetune.models.layer_decay import By, parameter_groups
from finetune.training.augment import AugmentConfig, Mix, erase, seeded

# What may differ when a run resumes: it changes no number.
MAY_CHANGE = (
    *("run.", "out", "data.source."),
    *("data.workers", "data.max_bad_fraction", "data.batch_size"),
)


@dataclass(frozen=True, kw_only=True)
class FitOptimConfig(OptimConfig):
    """The optimiser and its schedule. The defaults are for hundreds to thousands of labels."""

    batch_size: int = 32
    """Images a step over all processes and accumulated micro-batches."""
    epochs: float = 50.0
    """Length of the run in passes over the data, unless steps is given."""
    warmup_epochs: float = 5.0
    """Linear warm-up in passes over the data; at most a tenth of a run that is given in steps."""
    base_lr: float = 4e-3
    """Peak learning rate for a batch of 256; it grows in proportion to batch_size."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    ema: float | None = None
    """Decay of an average of the weights over the steps, which is what is evaluated and written;
    0.9999 is usual in long runs. None keeps none."""
    layer_decay: float = 0.9
    """Learning rate of a layer in parts of that of the next one; 1: all alike."""
    layer_decay_by: By = "layer"
    """layer: a block is one. group: three blocks are, as the paper has it for base and larger."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """What training a model with a head takes, whatever the head."""

    optim: FitOptimConfig = field(default_factory=FitOptimConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    run: RunConfig = field(default_factory=RunConfig)
    seed: int = 0
    """Seed of the head, the order, crops, augmentations and stochastic depth."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16 and fp16 are mixed precision; fp16 scales the loss."""


def run_of(out: Path) -> Path:
    """The directory of the run whose result is written to `out`: the same path without `.json`.

    Raises:
        ValueError: `out` does not end in `.json`, so that the two would be one path.
    """
    if out.suffix != ".json":
        raise ValueError(f"out={out} must end in .json")
    return out.with_suffix("")


def fit(
    directory: Path,
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    images: Chosen,
    config: FitConfig,
    *,
    metadata: Metadata,
    mix: Mix,
    max_bad_fraction: float,
    workers: int,
    processes: Processes,
    accelerator: Accelerator,
) -> None:
    """Train `model` in place; with an average of the weights, that is what it holds at the end.

    Args:
        directory: of the run: config, metrics, checkpoints; one that has some is resumed.
        model: timm's, on any device.
        loss: of outputs and targets, a mean over the batch.
        images: to learn from.
        config: of the whole program, which is what a resumed run is compared with.
        metadata: how the model takes images.
        mix: of images and targets of a batch.
        max_bad_fraction: share of the samples that may be broken.
        workers: processes that decode images, for each process.
        processes: that were launched.
        accelerator: made of them.

    Raises:
        OSError: the run directory cannot be written.
        ValueError: the directory holds another run, or a damaged one; too many samples are broken.
        FloatingPointError: the loss is not finite.
        SystemExit: a signal came; the run is saved.
    """
    optim = config.optim
    device = accelerator.device
    bad = BadSamples(len(images), max_bad_fraction)
    newest = newest_checkpoint(directory, accelerator)
    compare(directory, config, accelerator.print, free=MAY_CHANGE)
    to_device(model, device)
    trained = distribute(model, accelerator)
    learner = Learner(
        model,
        trained,
        parameter_groups(model, optim.weight_decay, optim.layer_decay, optim.layer_decay_by),
        optim,
        samples=len(images),
        precision=config.precision,
        accelerator=accelerator,
        averaged=model,
    )
    resume(learner, directory, newest)
    batches = GlobalBatches(
        Order([len(images)], config.seed, window=1),
        batch_size=optim.batch_size,
        start=learner.state.samples_seen,
        steps=learner.total - learner.state.step,
        rank=processes.rank,
        world=processes.world,
        micro_batches=optim.accumulate,
    )
    loader = batch_loader(
        images,
        batches,
        workers=0 if learner.finished else workers,
        pin_memory=device.type == "cuda",
    )
    normalise = Normalise(metadata.mean, metadata.std, metadata.in_chans).to(device)
    session = Session(
        directory,
        config.run,
        config,
        learner,
        bad,
        end=learner.total,
        title=metadata.model,
        names_of_step=lambda step, rank: [images.name(i) for _, i in batches.of_step(step, rank)],
    )
    micro_batches = iter(loader)
    for step in session.steps():
        learner.begin(step)
        for micro in learner.micro_batches:
            batch = session.take(micro_batches)
            x = normalise(batch["image"].to(device, non_blocking=True))
            drawn = zip(batch["epoch"].tolist(), batch["sample"].tolist(), strict=True)
            x = erase(x, config.augment.erasing, [(config.seed, *item) for item in drawn])
            target = batch["label"].to(device, non_blocking=True)
            x, target = mix(x, target, config.seed, step, micro)
            with (
                learner.accumulating(micro),
                seeded("drop", config.seed, step, micro, processes.rank),
            ):
                with learner.autocast():
                    outputs = trained(x.contiguous(memory_format=torch.channels_last))
                learner.backward(loss(outputs.float(), target))
        learner.step(measure=session.logging)
        line = session.measure()
        if line is not None:
            session.log(line)
        session.save()
    session.end()
    if learner.averages is not None:
        checkpoint.fill(dict(model.named_parameters()), learner.averages, directory)
    model.eval()
