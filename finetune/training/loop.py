"""The loop of fine-tuning: a model with a head, a loss, samples; resumable, over processes.

Crops and augmentations are functions of (seed, epoch, sample), and the order of samples of (seed,
epoch), as in pretraining; stochastic depth is one of (seed, step, rank). A run that was stopped
ends as one that was not.
"""

import math
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.bad_samples import BrokenSamples
from data.order import GlobalBatches, Order
from data.pipeline import outlive_signals
from data.transforms import Normalise
from fcmae.convert import Metadata
from fcmae.run import checkpoint, directory
from fcmae.run.checkpoint import TrainState
from fcmae.run.config import to_yaml
from fcmae.run.ema import Ema
from fcmae.run.optim import DTYPES, OptimConfig, lr_at, total_steps, warmup_steps
from fcmae.run.processes import Processes
from fcmae.run.progress import Progress
from fcmae.run.stopping import STATUS, Stop
from finetune.labels.labelled import Chosen
from finetune.models.layer_decay import By, parameter_groups
from finetune.training.augment import AugmentConfig, Mix, erase, seeded

# what may differ when a run resumes: it changes no number
FREE = ("run.", "out", "data.workers", "data.source.", "data.max_bad_fraction", "data.batch_size")


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
    run: directory.RunConfig = field(default_factory=directory.RunConfig)
    seed: int = 0
    """Of the head, the order, crops, augmentations and stochastic depth."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16 and fp16 are mixed precision; fp16 scales the loss."""


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
        OSError, ValueError: see `fcmae.run.directory.compare`, `fcmae.run.checkpoint.load`.
        FloatingPointError: the loss is not finite.
        SystemExit: a signal came; the run is saved.
    """
    optim, run = config.optim, config.run
    device, main_process = accelerator.device, accelerator.is_main_process
    total, warmup = total_steps(optim, len(images)), warmup_steps(optim, len(images))
    seen = checkpoint.newest_whole(directory, print) if main_process else None
    (newest,) = broadcast_object_list([seen])
    directory.compare(directory, config, free=FREE, length=())
    bad = BrokenSamples(len(images), max_bad_fraction)

    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = accelerator.prepare(model) if processes.world > 1 else model
    groups = parameter_groups(model, optim.weight_decay, optim.layer_decay, optim.layer_decay_by)
    optimizer = torch.optim.AdamW(groups, lr=optim.base_lr, betas=optim.betas, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    ema = None if optim.ema is None else Ema(model, optim.ema)
    averages = None if ema is None else ema.averages
    state = TrainState()
    if newest is not None:
        state = checkpoint.load(newest, model, optimizer, averages)
        if state.scaler:
            scaler.load_state_dict(state.scaler)
        accelerator.print(f"resuming from {newest}")
    batches = GlobalBatches(
        Order([len(images)], config.seed, window=1),
        batch_size=optim.batch_size,
        start=state.samples_seen,
        steps=total - state.step,
        rank=processes.rank,
        world=processes.world,
        micro_batches=optim.accumulate,
    )
    normalise = Normalise(metadata.mean, metadata.std, metadata.in_chans).to(device)
    loader = DataLoader(
        images,
        batch_sampler=batches,
        num_workers=workers if state.step < total else 0,
        pin_memory=device.type == "cuda",
        worker_init_fn=outlive_signals,
    )
    if main_process:
        directory.begin(
            directory, config, state.step, world_size=processes.world, device=str(device)
        )
    accelerator.wait_for_everyone()
    if run.trackers:
        flat, init_kwargs = directory.of_trackers(directory, config)
        accelerator.init_trackers("fcmae", flat, init_kwargs=init_kwargs)
    accelerator.print(
        f"{metadata.model} with {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M"
        f" parameters, {len(images)} images, {total} steps of {optim.batch_size}"
        f" on {processes.world} x {device.type}"
    )

    writer = checkpoint.Writer(directory, run.keep, run.keep_every)
    stop, signalled = Stop(run.timeout), 0
    trained.train()
    micro_batches = iter(loader)
    found = list[str]()  # broken samples since the last log, of this rank
    steps = range(state.step, total)
    progress = Progress(
        directory,
        steps,
        optim.batch_size,
        device,
        lambda step, rank: images.name(batches.of_step(step, rank)),
        shown=main_process,
    )
    for step in progress:
        after = step + 1
        saving = after == total or after % run.save_every == 0
        logging = saving or after % run.log_every == 0
        lr = lr_at(
            step,
            total=total,
            warmup=warmup,
            base_lr=optim.base_lr,
            batch_size=optim.batch_size,
            min_lr=optim.min_lr,
        )
        for group in optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        value = torch.zeros((), device=device)
        for micro in range(1, optim.accumulate + 1):
            batch = progress.take(micro_batches)
            found += bad.new(batch["broken"])
            x = normalise(batch["image"].to(device, non_blocking=True))
            drawn = zip(batch["epoch"].tolist(), batch["sample"].tolist(), strict=True)
            x = erase(x, config.augment.erasing, [(config.seed, *item) for item in drawn])
            target = batch["label"].to(device, non_blocking=True)
            x, target = mix(x, target, config.seed, step, micro)
            with (
                nullcontext() if micro == optim.accumulate else accelerator.no_sync(trained),
                seeded("drop", config.seed, step, micro, processes.rank),
            ):
                with torch.autocast(
                    device.type, DTYPES[config.precision], enabled=config.precision != "fp32"
                ):
                    outputs = trained(x.contiguous(memory_format=torch.channels_last))
                part = loss(outputs.float(), target)
                scaler.scale(part / optim.accumulate).backward()
            value += part.detach() / optim.accumulate
        norm = torch.zeros(())
        if logging or optim.clip_grad is not None:
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(model.parameters(), optim.clip_grad or math.inf)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if ema is not None:
            ema.update(step)
        progress.note(after, value)
        state = TrainState(after, state.samples_seen + optim.batch_size)
        signalled = stop.agreed()
        if not (logging or signalled):
            if writer.failed():
                break  # and say why below
            continue
        # from here on the device is waited for
        if not scaler.is_enabled():  # it would have taken no such step
            progress.note(after, norm.to(device))
        mean = progress.mean_loss(value, lr)
        for message in bad.add(gather_object(found)):  # every process stops where one does
            accelerator.print(f"skipped {message}")
        found = []
        if logging:
            line = progress.line(state, mean, lr, norm) | {"bad_samples": bad.by_shard()}
            progress.log(line)
            if run.trackers:
                accelerator.log(directory.numbers(line), step=after)
        if saving or signalled:
            state = replace(state, scaler=scaler.state_dict())
            files = checkpoint.snapshot(model, optimizer, averages, keep=main_process)
            if main_process:
                writer.write(state, files, to_yaml(config))
        if signalled:
            break
    writer.wait()
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.trackers = []  # of this run; the program may start another
    if signalled:
        accelerator.print(
            f"{signal.Signals(signalled).name}: stopped and saved at step {state.step}"
        )
        sys.exit(STATUS[signalled])
    if averages is not None:
        checkpoint.fill(dict(model.named_parameters()), averages, directory)
    model.eval()
