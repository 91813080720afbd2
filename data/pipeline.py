"""The loader: it reads samples of shards in a given order, and makes batches of tensors of them."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from data.bad_samples import BadSample
from data.config import EIGHT_BITS, DataConfig, PixelConfig, WorkerCount
from data.decode import Picture, encoded_image, open_image
from data.fitting import Fitted, Tiles
from data.jitter import JitteredCrop
from data.order import GlobalBatches
from data.shards.index import Shard
from data.shards.samples import ShardSamples
from data.targets import ClassTarget, Members, Target, Unlabelled, group_of
from data.transforms import Crop, Image
from data.values import Statistics
from data.worker_signals import outlive_signals
from fcmae.run.terminal import LOST_WORKER
from fcmae.run.threads import cores

Crops = Callable[[Picture, tuple[int, int], random.Random], Image | Tiles]
JointCrops = Callable[[Picture, Any, tuple[int, int], random.Random], tuple[Image, Any]]
CLASS = ClassTarget()
CENTRE = Fitted()


class ShardImages(Dataset[dict[str, Any]]):
    """The images of shards: `images[epoch, sample]` is an image with its label.

    An item is `{"image": UInt8|Float32[c, h, w], "key": str, "epoch": int, "sample": int,
    "label": target, "group": str | None, "whole": bool, "bad": tuple[BadSample, ...]}`. A sample is
    bad if it has no image, its image cannot be decoded, or its label is not of the target's kind or
    damaged, or its group. A sample without a label is not bad.

    A bad sample gives zeros and a missing label, and is not `whole`. With `replace`, the next whole
    sample of its shard takes its place, cropped and masked as the bad one would have been. So
    batches stay full and depend on nothing else. `bad` lists every sample that was skipped.

    Args:
        samples: The samples that hold the images.
        size: Height and width in pixels.
        in_chans: The number of channels.
        pixels: How stored values become pixels.
        statistics: See `data.decode.Picture`.
        seed: The seed, which determines crop and flip together with epoch and sample.
        crop: What is cut out of a picture: a random crop, or `Fitted`.
        joint_crop: Crops image and label together where labels have pixels; used instead of `crop`.
        target: The kind of labels.
        group: The field of the json member that becomes the item's `group`; None without it.
        image: The suffix of the members that are the images; "" for any of IMAGE_SUFFIXES.
        replace: Whether bad samples are replaced, as pretraining needs it.
        views: How many crops are drawn of a picture; several stand in the item's image as tiles do,
            [views, c, h, w], the first of which does not depend on it.

    Raises:
        ValueError: With `replace`, no sample of a shard can be read; or the bytes of a sample are
            no tar.
    """

    def __init__(
        self,
        samples: ShardSamples,
        *,
        size: tuple[int, int],
        in_chans: int,
        pixels: PixelConfig = EIGHT_BITS,
        statistics: Statistics | None = None,
        seed: int = 0,
        crop: Crops = CENTRE,
        joint_crop: JointCrops | None = None,
        target: Target = CLASS,
        group: str = "",
        image: str = "",
        replace: bool = False,
        views: int = 1,
    ) -> None:
        self.samples = samples
        self.size = size
        self.in_chans = in_chans
        self.pixels = pixels
        self.statistics = statistics
        self.seed = seed
        self.crop = crop
        self.joint_crop = joint_crop
        self.target = target
        self.group = group
        self.image = image
        self.replace = replace
        self.views = views

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        epoch, sample = item
        wanted = self.read(sample, epoch, sample)
        if wanted["whole"] or not self.replace:
            return wanted
        shard, _ = self.samples.locate(sample)
        candidates = (self.read(i, epoch, sample) for i in self.samples.from_here_on(sample))
        return next_whole(candidates, f"{shard.samples} samples of {shard.url}")

    def name(self, sample: int) -> str:
        """Describe a sample as `URL: sample 'KEY'`."""
        return self.samples.name(sample)

    def read(self, sample: int, epoch: int, place: int) -> dict[str, Any]:
        """Read a sample as the item (epoch, place). If it is bad, the image is zeros."""
        members = self.samples.members(sample)
        key = str(members["__key__"])
        group = None
        bad: tuple[BadSample, ...] = ()
        try:
            image, label = self.decode(members, f"{self.seed} {epoch} {place}")
            group = group_of(members, self.group) if self.group else None
        except ValueError as error:
            bad = (self.samples.bad(sample, key, error),)
            image = torch.zeros(self.in_chans, *self.size, dtype=getattr(torch, self.pixels.pixels))
            label = self.target.missing
        return {
            "image": image,
            "key": key,
            "epoch": epoch,
            "sample": place,
            "label": label,
            "group": group,
            "whole": not bad,
            "bad": bad,
        }

    def decode(self, members: Members, key: str) -> tuple[torch.Tensor, Any]:
        """Decode the image, [c, h, w], or several views of it, and the label of a sample.

        Args:
            members: The sample.
            key: Seeds the generator of what is drawn; views after the first add their number.

        Raises:
            ValueError: The sample is bad.
        """
        encoded, suffix = encoded_image(members, self.image)
        picture = open_image(encoded, suffix, self.in_chans, self.pixels, self.statistics)
        rng = random.Random(key)
        if self.joint_crop is not None:
            return self.joint_crop(picture, self.target(members), self.size, rng)
        image = self.crop(picture, self.size, rng)
        if self.views > 1:
            others = (random.Random(f"{key} {view}") for view in range(1, self.views))
            image = torch.stack([image, *(self.crop(picture, self.size, rng) for rng in others)])
        return image, self.target(members)


def next_whole(items: Iterable[dict[str, Any]], these: str) -> dict[str, Any]:
    """The first whole item, which gets the bad samples of the items before it.

    Args:
        items: The item that is wanted, followed by those that may take its place.
        these: What the items are and how many, for the error.

    Raises:
        ValueError: No item is whole.
    """
    bad: list[BadSample] = []
    for item in items:
        bad += item["bad"]
        if item["whole"]:
            return item | {"bad": tuple(bad)}
    raise ValueError(f"none of the {these} can be read ({bad[0]}); take them out of data.train")


@runtime_checkable
class Samples(Protocol):
    """Items by (epoch, number), like those of ShardImages: all samples of shards, or some."""

    def __len__(self) -> int: ...

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]: ...

    def name(self, sample: int) -> str:
        """Describe a sample as `URL: sample 'KEY'`."""
        ...


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
