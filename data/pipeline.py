"""The loaders: they read samples of a dataset in a given order, and make batches of tensors."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from data.config import DataConfig, WorkerCount
from data.dataset import Crops, Samples, ShardImages
from data.jitter import JitteredCrop
from data.order import GlobalBatches
from data.shards.index import Shard
from data.shards.samples import ShardSamples
from data.targets import Unlabelled
from data.transforms import Crop
from data.values import Statistics
from data.worker_signals import outlive_signals
from fcmae.run.terminal import LOST_WORKER
from fcmae.run.threads import cores

A_MOMENT = 1.0  # seconds, for the signal of a worker's end to come


def train_loader(
    shards: Sequence[Shard],
    config: DataConfig,
    batches: GlobalBatches,
    *,
    size: tuple[int, int],
    in_chans: int,
    pin_memory: bool,
    views: int = 1,
) -> DataLoader[dict[str, Any]]:
    """The loader of pretraining, which gives micro-batches of random crops.

    Args:
        shards: The shards that hold the samples.
        config: How images are cropped, decoded and read.
        batches: The micro-batches of this process.
        size: Height and width in pixels.
        in_chans: The number of channels.
        pin_memory: Whether batches are put into pinned memory, for copies to a GPU.
        views: Random crops of each sample, which stand one after the other in a batch.

    Raises:
        ValueError: See `JitteredCrop`.
    """
    crop: Crops = Crop(config.scale, config.flip)
    if config.jitter.asked_for:
        crop = JitteredCrop(crop, config.jitter, config.std, in_chans, config.pixels)
    images = ShardImages(
        ShardSamples(shards, config.source),
        size=size,
        in_chans=in_chans,
        pixels=config,
        statistics=Statistics(config.mean, config.std),
        seed=batches.order.seed,
        crop=crop,
        target=Unlabelled(),
        image=config.image,
        replace=True,
        views=views,
    )
    return batch_loader(
        images, batches, workers=config.workers, world=batches.world, pin_memory=pin_memory
    )


def worker_count(workers: WorkerCount, world: int) -> int:
    """The number of processes that decode images for one of `world` training processes.

    Args:
        workers: What the config says; "auto" or None for the cores, at most 16, shared.
        world: The number of training processes.
    """
    return max(1, min(cores(), 16) // world) if workers in ("auto", None) else workers


class Loader(DataLoader[dict[str, Any]]):
    """A DataLoader that tells of a worker which is lost while its batch is fetched."""

    def __iter__(self) -> Any:
        return naming_the_lost(super().__iter__())


def naming_the_lost(batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the batches of a DataLoader.

    A batch lies in memory of its worker, and where that is lost, torch's error is that of a
    connection, such as an EOFError without any text.

    Raises:
        RuntimeError: a worker was lost, which `run_program` tells in a line.
    """
    try:
        yield from batches
    except (EOFError, ConnectionError, FileNotFoundError) as error:
        if LOST_WORKER in str(error):  # the worker lives, and tells of an error of its own
            raise
        with suppress(RuntimeError):  # torch raises it a moment later, wherever the program is then
            time.sleep(A_MOMENT)
        raise RuntimeError(f"{LOST_WORKER} was lost with its batch") from error


def batch_loader(
    images: Samples,
    batches: Iterable[list[tuple[int, int]]],
    *,
    workers: WorkerCount,
    world: int = 1,
    pin_memory: bool = False,
) -> DataLoader[dict[str, Any]]:
    """A loader of the given batches of (epoch, number). Its workers ignore the signals of a job.

    Workers that are counted by the cores share them with those of all `world` processes.

    Do not pass it to `Accelerator.prepare`: `batches` are the share of this process already.
    """
    return Loader(
        cast("Dataset[dict[str, Any]]", images),
        batch_sampler=batches,
        num_workers=worker_count(workers, world),
        pin_memory=pin_memory,
        collate_fn=collate,
        worker_init_fn=outlive_signals,
    )


def eval_loader(
    images: Samples, *, batch_size: int, workers: WorkerCount, rank: int = 0, world: int = 1
) -> DataLoader[dict[str, Any]]:
    """A loader of every world-th sample from `rank` on, in order; the last batch may be smaller."""
    mine = [(0, sample) for sample in range(rank, len(images), world)]
    return Loader(
        cast("Dataset[dict[str, Any]]", images),
        batch_size=batch_size,
        sampler=mine,
        num_workers=worker_count(workers, world),
        collate_fn=collate,
    )


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make a batch of items: tensors are stacked, `key` and `group` are lists, `bad` is one.

    Tiles stand one after another in `image`; `tiles` says how many of them each sample has.
    """
    images = [item["image"] for item in items]
    lists: dict[str, Any] = {
        "group": [item["group"] for item in items],
        "bad": [sample for item in items for sample in item["bad"]],
        "tiles": [len(image) if image.ndim == 4 else 1 for image in images],
    }
    if any(image.ndim == 4 for image in images):  # a bad sample has one image of zeros
        images = [image if image.ndim == 4 else image[None] for image in images]
        lists["image"] = torch.cat(images)
    others = [{name: item[name] for name in item if name not in lists} for item in items]
    try:
        return default_collate(others) | lists
    except RuntimeError as error:
        if "shared memory" not in str(error):
            raise
        raise OSError(
            "shared memory has no room for a batch of images: give /dev/shm more (docker run"
            " --shm-size 2g; on Kubernetes an emptyDir of medium Memory), or decode without"
            f" workers, --data.workers 0 ({error})"
        ) from error
