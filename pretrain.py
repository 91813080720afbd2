"""Pretrain an encoder on images without labels, as a masked autoencoder (FCMAE).

    fcmae pretrain small --data.train photos/ --run.dir runs/photos

The first word is a recipe, by its name or as a YAML file, over which flags win. Restarting the same
command resumes from the last checkpoint. SIGTERM, SIGUSR1 and Ctrl-C end the run after the step
with a checkpoint, and exit status 75 (130 for Ctrl-C).
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fcmae.run.config import parse, to_yaml
from fcmae.run.program import run_program
from fcmae.run.terminal import say
from fcmae.run.waiting import waiting
from finetune.training.pretraining import LENGTH, MAY_CHANGE, PretrainConfig, PretrainRun

if TYPE_CHECKING:
    from data.dataset import ShardImages
    from fcmae.run.processes import Processes


def main(argv: Sequence[str]) -> Path:
    """Train, in however many processes were launched; return the directory of the run."""
    config = parse(PretrainConfig, argv, description=str(__doc__))
    run = config.run
    with waiting("importing PyTorch"):
        from fcmae.run.lock import sole_writer  # torch takes seconds, and a help text needs none
        from fcmae.run.processes import Processes

    processes = Processes(run.timeout)
    with processes.naming_the_lost():
        if not config.dry_run:
            with sole_writer(run.dir, processes, run.timeout / 2):
                train(config, run, processes)
            return run.dir
        with tempfile.TemporaryDirectory() as folder:
            from finetune.training.dry_run import EVERY

            scratch = replace(run, dir=Path(folder), log_every=EVERY, trackers=())
            train(config, scratch, processes)
    return run.dir


def train(config: PretrainConfig, run: PretrainRun, processes: "Processes") -> None:
    """Set up, resume, train, save.

    Args:
        config: of the command line.
        run: its `run`, or that of a dry run.
        processes: that were launched.
    """
    with waiting("importing timm and others"):
        from finetune.training import start
    from data.bad_samples import BadSamples
    from data.making.cached import as_shards
    from data.order import Order
    from data.shards.reading import open_shards
    from data.transforms import Normalise
    from fcmae.masking import draw_visible_of
    from fcmae.run.checkpoint import latest
    from fcmae.run.directory import compare
    from fcmae.run.options import BEFORE
    from fcmae.run.session import Session
    from fcmae.run.starting import newest_checkpoint, resume, start_accelerator
    from finetune.training import dry_run
    from finetune.training.batches import batches_left, names_of_step
    from finetune.training.watch import Watch, check_watched

    accelerator = start_accelerator(processes, run.trackers, run.dir)
    device = accelerator.device
    train = as_shards(
        config.data.train, config.data.source, max_broken=config.data.max_bad_fraction
    )
    shards = open_shards(train, run.verify, config.data.source, config.data.image)
    config = start.with_statistics(config, shards, accelerator.print)
    config = start.settled(config, accelerator)
    check_watched(config)
    order = Order([shard.samples for shard in shards], config.seed, config.data.window)
    bad = BadSamples(order.samples, config.data.max_bad_fraction)
    newest = newest_checkpoint(run.dir, accelerator)
    changed = compare(
        run.dir,
        config,
        accelerator.print,
        free=MAY_CHANGE,
        length=LENGTH,
        told=BEFORE,
        shards=shards,
        newest=newest,
    )
    model = start.make_model(config, newest, accelerator)
    learner = start.make_learner(config, model, accelerator, order.samples)
    resume(learner, run.dir, newest)
    if learner.finished:
        return
    end = min(learner.total, dry_run.STEPS) if config.dry_run else learner.total
    batches = batches_left(order, learner, processes, end)
    start.prepare_passes(config, model, learner)
    loader = start.make_loader(config, model, shards, batches)
    normalise = Normalise(config.data.mean, config.data.std, config.model.in_chans).to(device)
    session = Session(
        run.dir,
        run,
        config,
        learner,
        bad,
        end=end,
        title=config.model.name,
        names_of_step=names_of_step(cast("ShardImages", loader.dataset), batches),
        changed=changed,
        shards=shards,
    )
    if config.dry_run and accelerator.is_main_process:
        say(*f"{to_yaml(config)}{model}".splitlines())

    watch = Watch(config, run.dir, model, session, learner, normalise)
    watch.looks.begin(shards, order)
    views = config.model.contrast.views
    micro_batches = iter(loader)
    dry = dry_run.DryRun(device) if config.dry_run else None
    for step in session.steps() if dry is None else dry.over(session.steps(), end):
        learner.begin(step)
        for micro in learner.micro_batches:
            batch = session.take(micro_batches)
            images = normalise(batch["image"].to(device, non_blocking=True))
            visible = draw_visible_of(
                config.seed, batch["epoch"], batch["sample"], model.n, config.model.ratio, views
            ).to(device, non_blocking=True)
            with learner.accumulating(micro):
                with learner.autocast():
                    loss, prediction, *terms = learner.trained(images, visible)
                learner.backward(loss, *terms)
            watch.look(images, visible, prediction)
        learner.step(measure=session.logging)
        watch.draw()
        line = session.measure()
        if line is not None:
            session.log(line | watch.measure())
        session.save()
    session.end()
    if dry is not None and accelerator.is_main_process:
        images = cast("ShardImages", loader.dataset)
        say(*dry.summary(config, run.dir, learner, images))
    elif accelerator.is_main_process:
        weights = run.dir / "encoder.safetensors"
        say(f"written: {latest(run.dir)}")
        say(f"next: python -m fcmae.convert {run.dir} {weights} --to timm")
    accelerator.end_training()


if __name__ == "__main__":
    run_program(main)
