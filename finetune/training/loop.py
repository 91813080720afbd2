"""The loop of fine-tuning: a model with a head, a loss, samples; resumable, over processes.

Crops and augmentations are functions of (seed, epoch, sample), and the order of samples of (seed,
epoch), as in pretraining; stochastic depth is a function of (seed, step, rank). A run that was
stopped ends as one that was not.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from data.bad_samples import BadSamples
from data.order import Order
from data.pipeline import batch_loader
from data.transforms import Normalise
from fcmae.run import computing
from fcmae.run.compiling import WORTH, keep_code
from fcmae.run.computing import precision_on
from fcmae.run.directory import compare
from fcmae.run.learner import Learner
from fcmae.run.optim import total_steps
from fcmae.run.options import BEFORE
from fcmae.run.processes import Processes
from fcmae.run.session import Session
from fcmae.run.starting import distribute, newest_checkpoint, resume
from fcmae.run.whole_tensors import fill
from fcmae.weights.metadata import Metadata
from finetune.labels.config import reading_of, resolved
from finetune.labels.labelled import Chosen
from finetune.models.backbone import to_device
from finetune.models.convnext_cpu import quicken
from finetune.models.layer_decay import below_head, parameter_groups
from finetune.training.augment import Mix, erase, seeded
from finetune.training.batches import batches_left, names_of_step
from finetune.training.config import MAY_CHANGE, FitConfig, SegmentConfig, TrainConfig, run_of


def fit(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    images: Chosen,
    config: TrainConfig | SegmentConfig,
    *,
    metadata: Metadata,
    mix: Mix,
    processes: Processes,
    accelerator: Accelerator,
) -> None:
    """Train `model` in place; with an average of the weights, that is what it holds at the end.

    The run lies in the directory of `config.out`, and goes on from a checkpoint that is there.

    Args:
        model: timm's, on any device.
        loss: of outputs and targets, a mean over the batch.
        images: to learn from.
        config: of the whole program. A resumed run is compared with it as the metadata complete
            it, so that it is the same whether they tell how files are read or a flag does.
        metadata: how the weights that it starts from take images.
        mix: of images and targets of a batch.
        processes: that were launched.
        accelerator: of these processes.

    Raises:
        OSError: the run directory cannot be written.
        ValueError: the directory holds another run, or a damaged one; too many samples are broken.
        FloatingPointError: the loss is not finite.
        SystemExit: a signal came; the run is saved.
    """
    directory = run_of(config.out)
    device = accelerator.device
    config = replace(config, data=resolved(config.data, metadata))
    seen = total_steps(config.optim, len(images)) * config.optim.batch_size
    config = computing.settled(config, device, compiles=seen >= WORTH, strict=False)
    if config.compile:
        keep_code(config.run.compile_cache, directory)
    bad = BadSamples(len(images), config.data.max_bad_fraction)
    newest = newest_checkpoint(directory, accelerator)
    shards = images.images.samples.shards
    compare(
        directory,
        config,
        accelerator.print,
        free=MAY_CHANGE,
        told={**BEFORE, **reading_of(metadata, "data.")},
        shards=shards,
        newest=newest,
    )
    to_device(model, device)
    quicken(model)
    learner = make_learner(model, config, accelerator, samples=len(images))
    resume(learner, directory, newest)
    batches = batches_left(Order([len(images)], config.seed, window=1), learner, processes)
    loader = batch_loader(
        images,
        batches,
        workers=0 if learner.finished else config.data.workers,
        world=accelerator.num_processes,
        pin_memory=device.type == "cuda",
    )
    if config.compile and not learner.finished:
        shape = (learner.micro_batch, metadata.in_chans, *metadata.image_size)
        x = torch.zeros(shape, device=device)
        x = x.contiguous(memory_format=torch.channels_last)
        learner.compile(model, x, deterministic=config.deterministic)
    normalise = Normalise(metadata.mean, metadata.std, metadata.in_chans).to(device)
    session = Session(
        directory,
        config.run,
        config,
        learner,
        bad,
        end=learner.total,
        title=metadata.model,
        names_of_step=names_of_step(images, batches),
        shards=shards,
    )
    below = below_head(model, config.optim.layer_decay_by)
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
                    outputs = learner.trained(x.contiguous(memory_format=torch.channels_last))
                learner.backward(loss(outputs.float(), target))
        if step < config.optim.frozen_steps:
            freeze(below)
        learner.step(measure=session.logging)
        line = session.measure()
        if line is not None:
            session.log(line)
        session.save()
    session.end()
    if learner.averages is not None:
        fill(dict(model.named_parameters()), learner.averages, directory)
    model.eval()


def freeze(parameters: Iterable[nn.Parameter]) -> None:
    """Take the gradients away, so that AdamW passes these parameters over in the step to come."""
    for parameter in parameters:
        parameter.grad = None


def make_learner(
    model: nn.Module, config: FitConfig, accelerator: Accelerator, *, samples: int
) -> Learner:
    """The learner of a model, distributed over the processes; its rates decay towards the stem.

    Args:
        model: on its device.
        config: the optimiser and the precision.
        accelerator: of the processes.
        samples: images of one pass over the data.

    Raises:
        ValueError: the config makes no step, its warm-up is longer than the run, or its layer decay
            does not fit the model.
    """
    optim = config.optim
    return Learner(
        model,
        distribute(model, accelerator),
        parameter_groups(model, optim.weight_decay, optim.layer_decay, optim.layer_decay_by),
        optim,
        samples=samples,
        precision=precision_on(accelerator.device, config.precision),
        accelerator=accelerator,
        averaged=model,
    )
