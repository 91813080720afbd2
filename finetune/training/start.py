"""What a pretraining run starts from: its statistics, model, learner and batches."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from data.order import GlobalBatches
from data.pipeline import train_loader
from data.shards.index import Shard
from data.shards.scaling import statistics_for
from fcmae import FCMAE
from fcmae.decoders.unet import Doubling
from fcmae.layers import Block
from fcmae.masking import draw_visible
from fcmae.run import computing, fsdp
from fcmae.run.compiling import keep_code
from fcmae.run.computing import precision_on
from fcmae.run.learner import Learner, parameter_groups
from fcmae.run.starting import distribute
from fcmae.run.waiting import waiting
from fcmae.weights.loading import load_decoder, load_encoder, load_projector
from finetune.training.pretraining import PretrainConfig


def with_statistics(
    config: PretrainConfig, shards: Sequence[Shard], say: Callable[[str], object]
) -> PretrainConfig:
    """The config with the mean and standard deviation of the shards where it has none.

    The depth of the decoder, which depends on its kind, is filled in as well.

    Args:
        config: of the run.
        shards: that it trains on.
        say: prints a line on what is assumed.

    Raises:
        ValueError: see `data.shards.scaling.statistics_for`.
    """
    mean, std = statistics_for(config.data, shards, say)
    model = replace(config.model, decoder_depth=config.model.decoder_blocks)
    return replace(config, data=replace(config.data, mean=mean, std=std), model=model)


def make_model(config: PretrainConfig, newest: Path | None, accelerator: Accelerator) -> FCMAE:
    """The model at the start of the run: of the seed, or of `init.weights` before step 0.

    Raises:
        OSError: `init.weights` cannot be read.
        ValueError: options of the model, or weights, that do not fit.
    """
    sharded = fsdp.is_wanted(accelerator.num_processes)
    if sharded and (config.precision == "fp16" or config.compile is True):
        raise ValueError("FSDP2 goes with neither precision=fp16 (take bf16) nor compile=True")
    optim, weight = config.optim, config.model.contrast.weight
    if weight and optim.batch_size < 2 * optim.accumulate:
        raise ValueError(
            f"model.contrast.weight={weight} compares the samples of a micro-batch, of which"
            f" optim.batch_size={optim.batch_size} and optim.accumulate={optim.accumulate} leave"
            f" one: raise the former to at least {2 * optim.accumulate}"
        )
    init = config.init
    model = FCMAE.from_config(config.model, generator=torch.Generator().manual_seed(config.seed))
    if init.weights is not None and newest is None:
        with waiting("loading weights"):
            told = load_encoder(model.encoder, init.weights, config.model)
        accelerator.print(told)
        if init.decoder:
            accelerator.print(load_decoder(model.decoder, init.weights))
            if model.contrast is not None:
                accelerator.print(load_projector(model.contrast.projector, init.weights))
    elif init.weights is not None and newest is not None:
        accelerator.print(f"init.weights={init.weights} is ignored: {newest.parent} resumes")
    of_stages = config.run.recompute or config.watch.collapse_every
    if config.model.attends and of_stages:
        raise ValueError(
            f"model.name={config.model.name} goes with neither run.recompute nor"
            " watch.collapse_every, which are for convnextv2 and convnext"
        )
    of_convnext = of_stages or config.compile or sharded
    if (config.model.of_timm or config.model.is_convmae) and of_convnext:
        raise ValueError(
            f"model.name={config.model.name} goes with none of run.recompute, compile=True, FSDP2"
            " and watch.collapse_every, which are for convnextv2 and convnext"
        )
    for stage in config.run.recompute:
        model.encoder.stages[stage].recompute = True  # type: ignore[assignment]
    return model.to(accelerator.device)


def settled(config: PretrainConfig, accelerator: Accelerator) -> PretrainConfig:
    """The config without what it leaves to the device, see `fcmae.run.computing.settled`.

    Raises:
        ValueError: CUDA graphs are asked for where there are none.
    """
    where, world = accelerator.device.type, accelerator.num_processes
    if config.run.cuda_graphs and where != "cuda":
        raise ValueError(
            f"run.cuda_graphs=True needs a GPU of CUDA, and this run is on {where}: leave it out"
        )
    if config.run.cuda_graphs and world > 1:
        raise ValueError(
            f"run.cuda_graphs=True is for one process, and there are {world}: leave it out"
        )
    whole = not fsdp.is_wanted(world)
    ours = not config.model.of_timm
    config = computing.settled(config, accelerator.device, compiles=whole and ours, strict=ours)
    if config.compile:
        keep_code(config.run.compile_cache, config.run.dir)
    return config


def make_learner(
    config: PretrainConfig, model: FCMAE, accelerator: Accelerator, samples: int
) -> Learner:
    """The learner of the model, distributed over the processes.

    Args:
        config: of the run.
        model: on its device.
        accelerator: of the processes.
        samples: images of one pass over the data.

    Raises:
        ValueError: the config makes no step, or its warm-up is longer than the run.
    """
    return Learner(
        model,
        distribute(model, accelerator, (Block, Doubling)),
        parameter_groups(model.named_parameters(), config.optim.weight_decay),
        config.optim,
        samples=samples,
        precision=precision_on(accelerator.device, config.precision),
        accelerator=accelerator,
        averaged=model.encoder,
        prefix="encoder.",
    )


def prepare_passes(config: PretrainConfig, model: FCMAE, learner: Learner) -> None:
    """Compile the model in place for the batches of the run, and record it, as the config says.

    If compiling fails, a line says why, and the model runs as it is written.

    Args:
        config: of the run.
        model: on its device.
        learner: of the model.

    Raises:
        ValueError: its passes cannot be recorded.
    """
    if not (config.compile or config.run.cuda_graphs):
        return
    b = config.model.contrast.views * learner.micro_batch
    images = torch.zeros(b, config.model.in_chans, *model.image_size, device=learner.device)
    visible = draw_visible(b, model.n, model.ratio, generator=torch.Generator()).to(learner.device)
    if config.compile:
        learner.compile(model, images, visible, deterministic=config.deterministic)
    if config.run.cuda_graphs:
        learner.replay(model, images, visible)


def make_loader(
    config: PretrainConfig, model: FCMAE, shards: Sequence[Shard], batches: GlobalBatches
) -> DataLoader[dict[str, Any]]:
    """The images of these batches, as the model takes them; on a GPU, out of pinned memory.

    Never `prepare` it: the share of this process is chosen already.

    Raises:
        ValueError: the bytes of a shard are no tar.
    """
    return train_loader(
        shards,
        config.data,
        batches,
        size=model.image_size,
        in_chans=config.model.in_chans,
        views=config.model.contrast.views,
        pin_memory=next(model.parameters()).is_cuda,
    )
