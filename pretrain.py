"""Pretrain a ConvNeXt with FCMAE on WebDataset shards.

    accelerate launch --quiet pretrain.py scripts/recipes/demo.yaml --run.dir runs/demo

Restarting the same command resumes from the last checkpoint. SIGTERM, SIGUSR1 and Ctrl-C end the
run after the step with a checkpoint, and exit status 75 (130 for Ctrl-C).
"""

import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from data.bad_samples import BrokenSamples
from data.order import GlobalBatches, Order
from data.pipeline import DataConfig, ShardImages, train_loader
from data.shards.index import statistics
from data.shards.reading import open_shards
from data.transforms import Normalise
from fcmae import FCMAE, collapse
from fcmae.masking import draw_visible_of
from fcmae.model import ModelConfig
from fcmae.reconstruct import reconstruct, save_views
from fcmae.run import checkpoint, directory
from fcmae.run.checkpoint import TrainState
from fcmae.run.config import parse, run_program, to_yaml
from fcmae.run.ema import Ema
from fcmae.run.fsdp import gradient_norm, shard
from fcmae.run.optim import DTYPES, OptimConfig, lr_at, parameter_groups, total_steps, warmup_steps
from fcmae.run.processes import Processes
from fcmae.run.progress import Progress
from fcmae.run.stopping import STATUS, Stop
from fcmae.weights.files import InitConfig, load_decoder, load_encoder

REHEARSAL = 20  # steps of a dry run
# what may differ when a run resumes: it changes no number, or only how long the run is
FREE = ("run.", "watch.", "dry_run", "data.workers", "data.source.", "data.max_bad_fraction")
LENGTH = ("optim.epochs", "optim.steps")


@dataclass(frozen=True, kw_only=True)
class PretrainRun(directory.RunConfig):
    """What cannot change a number."""

    dir: Path
    """Directory of the run: config, metrics, checkpoints, pictures."""
    picture_every: int = 500
    """Steps between reconstruction grids, also drawn at the end; 0 draws none."""
    recompute: tuple[int, ...] = ()
    """Stages (0 to 3) whose activations are computed again in the backward pass: a third more work
    there for less memory. The first stages are the large ones."""


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """What is measured now and then beside the loss; none of it changes a number."""

    collapse_every: int = 0
    """Steps between measurements of the feature distance of each block; 0 for none."""
    knn_train: tuple[str, ...] = ()
    """Labelled shards, of a few thousand images, to look up neighbours in; none: no k-NN."""
    knn_test: tuple[str, ...] = ()
    """Labelled shards to classify; not those of a final test."""
    knn_every: float = 10.0
    """Passes over the data between two k-NNs, which are rounded to logged steps."""
    knn_k: int = 20
    """Neighbours."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """FCMAE pretraining."""

    data: DataConfig
    run: PretrainRun
    model: ModelConfig = field(default_factory=ModelConfig)
    init: InitConfig = field(default_factory=InitConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    seed: int = 0
    """Of initialisation, order, crops and masks."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16 and fp16 are mixed precision: weights and statistics stay float32. fp16 scales the
    loss, and takes no step where the gradient overflows."""
    compile: bool = False
    """Compile the model with torch.compile, which rounds otherwise."""
    dry_run: bool = False
    """Print config, model and memory, time the first 20 steps, and stop; writes nothing."""


def main(argv: Sequence[str]) -> None:
    """Train, in however many processes were launched."""
    config = parse(PretrainConfig, argv, description=str(__doc__))
    run = config.run
    run.check()
    processes = Processes(run.timeout)
    with processes.naming_the_lost():
        if not config.dry_run:
            train(config, run, processes)
            return
        with tempfile.TemporaryDirectory() as folder:
            scratch = replace(run, dir=Path(folder), log_every=1, trackers=())
            train(config, scratch, processes)


def train(config: PretrainConfig, run: PretrainRun, processes: Processes) -> None:
    """Set up, resume, train, save; a dry run has a `run` of its own."""
    optim, watch = config.optim, config.watch
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # unless told, it starts no processes on CPUs
        mixed_precision="no",  # the loop below has autocast and the scaler, on any device
        log_with=list(run.trackers) or None,
        project_dir=run.dir,
    )
    processes.check(accelerator.num_processes, accelerator.device)
    device, main_process = accelerator.device, accelerator.is_main_process
    # accelerate's own switch; its own FSDP2 is not for CPUs, where ours is tested
    switch = os.environ.get("ACCELERATE_USE_FSDP", "false").lower()
    sharded = switch in ("true", "1") and processes.world > 1

    if sharded and (config.precision == "fp16" or config.compile):
        raise ValueError("FSDP2 goes with neither precision=fp16 (take bf16) nor compile=True")

    shards = open_shards(config.data.train, run.verify, config.data.source)
    if not (config.data.mean and config.data.std):
        mean, std = statistics(shards)
        own = replace(config.data, mean=config.data.mean or mean, std=config.data.std or std)
        config = replace(config, data=own)
    order = Order([shard.samples for shard in shards], config.seed, config.data.window)
    bad = BrokenSamples(order.samples, config.data.max_bad_fraction)
    total, warmup = total_steps(optim, order.samples), warmup_steps(optim, order.samples)
    # one process looks, or those that see another disk would start from another step
    seen = checkpoint.newest_whole(run.dir, print) if main_process else None
    (newest,) = broadcast_object_list([seen])
    changed = directory.compare(run.dir, config, free=FREE, length=LENGTH)
    for change in changed:
        accelerator.print(f"{change}: the schedule is that of the new length from here on")

    model = FCMAE(**vars(config.model), generator=torch.Generator().manual_seed(config.seed))
    if config.init.weights is not None:
        if newest is None:
            accelerator.print(load_encoder(model.encoder, config.init.weights, config.model))
            if config.init.decoder:
                accelerator.print(load_decoder(model.decoder, config.init.weights))
        else:
            accelerator.print(f"init.weights={config.init.weights} is ignored: {run.dir} resumes")
    for stage in run.recompute:
        if not 0 <= stage < len(model.encoder.stages):
            raise ValueError(f"run.recompute has {stage}: stages are 0 to 3")
        model.encoder.stages[stage].recompute = True  # type: ignore[assignment]
    if config.compile:
        model.compile()
    # Never prepare the loader: it is sharded.
    model.to(device)
    trained: torch.nn.Module = model
    if sharded:
        shard(model, device, processes.world)
    elif processes.world > 1:
        trained = accelerator.prepare(model)
    optimizer = torch.optim.AdamW(
        parameter_groups(model.named_parameters(), optim.weight_decay),
        lr=optim.base_lr,
        betas=optim.betas,
        fused=True,  # nor does it ask the device for anything
    )
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    ema = None if optim.ema is None else Ema(model.encoder, optim.ema, "encoder.")
    averages = None if ema is None else ema.averages
    state = TrainState()
    if newest is not None:
        state = checkpoint.load(newest, model, optimizer, averages)
        if state.scaler:
            scaler.load_state_dict(state.scaler)
        accelerator.print(f"resuming from {newest}")
    if state.step >= total:
        accelerator.print(f"{run.dir} is complete at step {state.step} of {total}")
        return
    end = min(total, REHEARSAL) if config.dry_run else total
    batches = GlobalBatches(
        order,
        batch_size=optim.batch_size,
        start=state.samples_seen,
        steps=end - state.step,
        rank=processes.rank,
        world=processes.world,
        micro_batches=optim.accumulate,
    )
    normalise = Normalise(config.data.mean, config.data.std, config.model.in_chans)
    normalise.to(device)
    loader = train_loader(
        shards,
        config.data,
        batches,
        size=model.image_size,
        in_chans=config.model.in_chans,
        pin_memory=device.type == "cuda",
    )
    images_of = cast("ShardImages", loader.dataset)
    if main_process:
        where = {"world_size": processes.world, "device": str(device), "fsdp": sharded}
        directory.begin(run.dir, config, state.step, **where, changed=changed)
    accelerator.wait_for_everyone()
    if run.trackers:
        flat, init_kwargs = directory.of_trackers(run.dir, config)
        accelerator.init_trackers("fcmae", flat, init_kwargs=init_kwargs)
    accelerator.print(
        f"{config.model.name} with {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M"
        f" parameters, {order.samples} images, {total} steps of {optim.batch_size}"
        f" on {processes.world} x {device.type}{' (FSDP2)' if sharded else ''}"
    )
    if config.dry_run and main_process:
        print(to_yaml(config), model, sep="\n")

    writer = checkpoint.Writer(run.dir, run.keep, run.keep_every)
    stop, signalled = Stop(run.timeout), 0
    trained.train()
    micro_batches = iter(loader)
    images = visible = prediction = torch.empty(0)  # the last micro-batch, for pictures
    found = list[str]()  # broken samples since the last log, of this rank
    steps = range(state.step, end)
    progress = Progress(
        run.dir,
        steps,
        optim.batch_size,
        device,
        lambda step, rank: images_of.name(batches.of_step(step, rank)),
        shown=main_process,
    )
    for step in progress:
        after = step + 1
        last = after == end
        saving = last or after % run.save_every == 0
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
            group["lr"] = lr
        loss = torch.zeros((), device=device)
        for micro in range(1, optim.accumulate + 1):
            batch = progress.take(micro_batches)
            found += bad.new(batch["broken"])
            images = normalise(batch["image"].to(device, non_blocking=True))
            visible = draw_visible_of(
                config.seed, batch["epoch"], batch["sample"], model.n, config.model.ratio
            ).to(device, non_blocking=True)
            whole = micro == optim.accumulate  # only then are gradients summed over processes
            if sharded:
                cast("FSDPModule", trained).set_requires_gradient_sync(whole)
            with nullcontext() if whole or sharded else accelerator.no_sync(trained):
                with torch.autocast(
                    device.type, DTYPES[config.precision], enabled=config.precision != "fp32"
                ):
                    part, prediction = trained(images, visible)
                scaler.scale(part / optim.accumulate).backward()
            loss += part.detach() / optim.accumulate
        norm = torch.zeros(())
        if logging or optim.clip_grad is not None:
            scaler.unscale_(optimizer)
            norm = gradient_norm(model, optim.clip_grad)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if ema is not None:
            ema.update(step)
        progress.note(after, loss)
        state = TrainState(after, state.samples_seen + optim.batch_size)
        signalled = stop.agreed()

        drawing = run.picture_every and (last or after % run.picture_every == 0)
        if drawing and main_process:
            views = reconstruct(images[:8], visible[:8], prediction[:8].detach(), model.patch_size)
            save_views(normalise.inverse(views), run.dir / "pictures" / f"step_{after:07d}.png")
        if not (logging or signalled):
            if writer.failed():
                break  # and say why below
            continue
        # from here on the device is waited for
        if not scaler.is_enabled():  # it would have taken no such step
            progress.note(after, norm.to(device))
        mean = progress.mean_loss(loss, lr)
        for message in bad.add(gather_object(found)):  # every process stops where one does
            accelerator.print(f"skipped {message}")
        found = []
        if logging:
            line = progress.line(state, mean, lr, norm) | {"bad_samples": bad.by_shard()}
            if scaler.is_enabled():
                line["loss_scale"] = scaler.get_scale()
            if watch.collapse_every and crossed(progress.logged, after, watch.collapse_every):
                forward = trained if sharded else model.forward  # not the compiled one: no hooks
                with torch.no_grad(), collapse.measured(model.encoder) as distances:
                    forward(images, visible)
                line["collapse"] = torch.stack(distances).tolist()
            knn_every = watch.knn_every * order.samples / optim.batch_size
            if watch.knn_train and (last or crossed(progress.logged, after, knn_every)):
                weights = checkpoint.whole(model.state_dict(), keep=True)
                line["knn_accuracy"] = online_knn(
                    config, model.image_size, weights, after, accelerator
                )
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
    if config.dry_run and main_process:
        print(directory.summary(run.dir, total, optim.batch_size))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    if signalled:
        accelerator.print(
            f"{signal.Signals(signalled).name}: stopped and saved at step {state.step}"
        )
        sys.exit(STATUS[signalled])


def crossed(before: int, after: int, every: float) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return before // every < after // every


def online_knn(
    config: PretrainConfig,
    image_size: tuple[int, int],
    weights: dict[str, Tensor],
    step: int,
    accelerator: Accelerator,
) -> float:
    """Accuracy of k-NN on the labelled shards to watch, with the encoder as it is now."""
    from fcmae.convert import Metadata, as_timm  # timm: a tenth of the time of a start
    from finetune.knn import knn_accuracy
    from finetune.labels.labelled import LabelledData

    metadata = Metadata(
        model=config.model.name,
        image_size=image_size,
        in_chans=config.model.in_chans,
        mean=config.data.mean,
        std=config.data.std,
        stem_stride=config.model.stem_stride,
        step=step,
    )
    data = LabelledData(
        train=config.watch.knn_train,
        test=config.watch.knn_test,
        workers=config.data.workers,
        max_bad_fraction=config.data.max_bad_fraction,
        pixels=config.data.pixels,
        source=config.data.source,
    )
    model = as_timm(weights, metadata)
    return knn_accuracy(model, metadata, data, config.watch.knn_k, accelerator)


if __name__ == "__main__":
    run_program(main)
