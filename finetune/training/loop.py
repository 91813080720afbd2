"""The loop of fine-tuning: a model with a head, a loss, samples; resumable, over processes.

Crops and augmentations are functions of (seed, epoch, sample), and the order of samples of (seed,
epoch), as in pretraining; stochastic depth is a function of (seed, step, rank). A run that was
stopped ends as one that was not.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from data.bad_samples import BadSamples
from data.order import GlobalBatches, Order
from data.pipeline import batch_loader
from data.transforms import Normalise
from fcmae.run import checkpoint
from fcmae.run.learner import Learner
from fcmae.run.processes import Processes
from fcmae.run.session import Session
from fcmae.weights.metadata import Metadata
from finetune.labels.labelled import Chosen
from finetune.models.backbone import to_device
from finetune.models.layer_decay import parameter_groups
from finetune.training.augment import Mix, erase, seeded
from finetune.training.config import MAY_CHANGE, FitConfig


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
    session = Session(directory, config.run, processes, accelerator, bad)
    session.compare(config, free=MAY_CHANGE)
    to_device(model, device)
    trained = session.distribute(model)
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
    session.resume(learner)
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
    session.begin(
        config,
        learner,
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
