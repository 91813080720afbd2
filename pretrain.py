"""Pretrain a ConvNeXt with FCMAE on WebDataset shards.

    accelerate launch --quiet pretrain.py scripts/recipes/demo.yaml --run.dir runs/demo

Restarting the same command resumes from the last checkpoint. SIGTERM, SIGUSR1 and Ctrl-C end the
run after the step with a checkpoint, and exit status 75 (130 for Ctrl-C).
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator

from data.bad_samples import BadSamples
from data.order import GlobalBatches, Order
from data.pipeline import ShardImages, train_loader
from data.shards.index import Shard, statistics
from data.shards.reading import open_shards
from data.transforms import Normalise
from fcmae import FCMAE
from fcmae.layers import Block
from fcmae.masking import draw_visible_of
from fcmae.run.config import parse, run_program, to_yaml
from fcmae.run.directory import compare
from fcmae.run.learner import Learner, parameter_groups
from fcmae.run.metrics import dry_run_summary
from fcmae.run.processes import Processes
from fcmae.run.session import (
    Session,
    distribute,
    newest_checkpoint,
    resume,
    start_accelerator,
)
from fcmae.weights.files import load_decoder, load_encoder
from finetune.training.pretraining import LENGTH, MAY_CHANGE, PretrainConfig, PretrainRun
from finetune.training.watch import Watch

REHEARSAL = 20  # steps of a dry run


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
    """Set up, resume, train, save.

    Args:
        config: of the command line.
        run: its `run`, or that of a dry run.
        processes: that were launched.
    """
    accelerator = start_accelerator(processes, run.trackers, run.dir)
    device = accelerator.device
    shards = open_shards(config.data.train, run.verify, config.data.source)
    config = with_statistics(config, shards)
    order = Order([shard.samples for shard in shards], config.seed, config.data.window)
    bad = BadSamples(order.samples, config.data.max_bad_fraction)
    newest = newest_checkpoint(run.dir, accelerator)
    changed = compare(run.dir, config, accelerator.print, free=MAY_CHANGE, length=LENGTH)

    model = make_model(config, newest, accelerator).to(device)
    trained = distribute(model, accelerator, Block)
    learner = Learner(
        model,
        trained,
        parameter_groups(model.named_parameters(), config.optim.weight_decay),
        config.optim,
        samples=order.samples,
        precision=config.precision,
        accelerator=accelerator,
        averaged=model.encoder,
        prefix="encoder.",
    )
    resume(learner, run.dir, newest)
    if learner.finished:
        return
    end = min(learner.total, REHEARSAL) if config.dry_run else learner.total
    batches = GlobalBatches(
        order,
        batch_size=config.optim.batch_size,
        start=learner.state.samples_seen,
        steps=end - learner.state.step,
        rank=processes.rank,
        world=processes.world,
        micro_batches=config.optim.accumulate,
    )
    # Never prepare the loader: it is sharded.
    loader = train_loader(
        shards,
        config.data,
        batches,
        size=model.image_size,
        in_chans=config.model.in_chans,
        pin_memory=device.type == "cuda",
    )
    images_of_shards = cast("ShardImages", loader.dataset)
    normalise = Normalise(config.data.mean, config.data.std, config.model.in_chans).to(device)
    session = Session(
        run.dir,
        run,
        config,
        learner,
        bad,
        end=end,
        title=config.model.name,
        names_of_step=lambda step, rank: [
            images_of_shards.name(sample) for _, sample in batches.of_step(step, rank)
        ],
        changed=changed,
    )
    if config.dry_run and accelerator.is_main_process:
        print(to_yaml(config), model, sep="\n")

    watch = Watch(config, run.dir, model, session, learner, normalise)
    micro_batches = iter(loader)
    for step in session.steps():
        learner.begin(step)
        for micro in learner.micro_batches:
            batch = session.take(micro_batches)
            images = normalise(batch["image"].to(device, non_blocking=True))
            visible = draw_visible_of(
                config.seed, batch["epoch"], batch["sample"], model.n, config.model.ratio
            ).to(device, non_blocking=True)
            with learner.accumulating(micro):
                with learner.autocast():
                    loss, prediction = trained(images, visible)
                learner.backward(loss)
            watch.look(images, visible, prediction)
        learner.step(measure=session.logging)
        watch.draw()
        line = session.measure()
        if line is not None:
            session.log(line | watch.measure())
        session.save()
    session.end()
    if config.dry_run and accelerator.is_main_process:
        print(dry_run_summary(run.dir, learner.total, config.optim.batch_size))
    accelerator.end_training()


def with_statistics(config: PretrainConfig, shards: Sequence[Shard]) -> PretrainConfig:
    """The config with the mean and standard deviation of the shards where it has none.

    Raises:
        ValueError: the index of a shard does not have them.
    """
    data = config.data
    if data.mean and data.std:
        return config
    mean, std = statistics(shards)
    return replace(config, data=replace(data, mean=data.mean or mean, std=data.std or std))


def make_model(config: PretrainConfig, newest: Path | None, accelerator: Accelerator) -> FCMAE:
    """The model at the start of the run: of the seed, or of `init.weights` before step 0.

    Raises:
        OSError: `init.weights` cannot be read.
        ValueError: options of the model, or weights, that do not fit; a stage that there is not.
    """
    init = config.init
    model = FCMAE.from_config(config.model, generator=torch.Generator().manual_seed(config.seed))
    if init.weights is not None and newest is None:
        accelerator.print(load_encoder(model.encoder, init.weights, config.model))
        if init.decoder:
            accelerator.print(load_decoder(model.decoder, init.weights))
    elif init.weights is not None and newest is not None:
        accelerator.print(f"init.weights={init.weights} is ignored: {newest.parent} resumes")
    for stage in config.run.recompute:
        if not 0 <= stage < len(model.encoder.stages):
            raise ValueError(f"run.recompute has {stage}: stages are 0 to 3")
        model.encoder.stages[stage].recompute = True  # type: ignore[assignment]
    if config.compile:
        model.compile()
    return model


if __name__ == "__main__":
    run_program(main)
