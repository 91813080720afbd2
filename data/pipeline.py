"""The loader: images of shards, by the numbers that the order gives, as batches of tensors."""

import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from data.bad_samples import BadSample
from data.config import IMAGE_SUFFIXES, DataConfig, Pixels
from data.decode import Picture, image_suffix, open_image
from data.order import GlobalBatches
from data.shards.index import Shard
from data.shards.samples import ShardSamples
from data.targets import ClassTarget, Members, Target, Unlabelled, group_of
from data.transforms import Crop, Image, centre_crop
from data.worker_signals import outlive_signals

Crops = Callable[[Picture, tuple[int, int], random.Random], Image]
JointCrops = Callable[[Picture, Any, tuple[int, int], random.Random], tuple[Image, Any]]
CLASS = ClassTarget()


class ShardImages(Dataset[dict[str, Any]]):
    """Images of shards, by (epoch, sample).

    An item is `{"image": UInt8|Float32[c, h, w], "key": str, "epoch": int, "sample": int,
    "label": target, "group": str | None, "whole": bool, "bad": tuple[BadSample, ...]}`. A sample is
    bad if it has no image, one that cannot be decoded, or a label that is none of its target's
    kind; one without a label is not.

    A bad sample gives zeros and a missing label, and is not `whole`. With `replace` the next one of
    its shard that is whole takes its place, cropped and masked as the bad one would have been, so
    that batches stay full and depend on nothing else. `bad` has each sample that was passed over.

    Args:
        samples: that hold the images.
        size: height and width in pixels.
        in_chans: channels of the images.
        pixels: "uint8" or "float32".
        seed: with epoch and sample it determines the crop and flip.
        crop: a random crop, a function of its generator; None for the centre.
        joint_crop: crops image and label together, where labels have pixels, in place of `crop`.
        target: what samples are labelled with.
        group: field of the json member that is the item's `group`; None in a sample without it.
        replace: bad samples, which serves pretraining.

    Raises:
        ValueError: no sample of a shard can be read; the bytes of one are no tar.
    """

    def __init__(
        self,
        samples: ShardSamples,
        *,
        size: tuple[int, int],
        in_chans: int,
        pixels: Pixels = "uint8",
        seed: int = 0,
        crop: Crops | None = None,
        joint_crop: JointCrops | None = None,
        target: Target = CLASS,
        group: str = "",
        replace: bool = False,
    ) -> None:
        self.samples = samples
        self.size = size
        self.in_chans = in_chans
        self.pixels: Pixels = pixels
        self.seed = seed
        self.crop = crop
        self.joint_crop = joint_crop
        self.target = target
        self.group = group
        self.replace = replace

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        epoch, sample = item
        if not self.replace:
            return self.read(sample, epoch, sample)
        shard, _ = self.samples.locate(sample)
        candidates = (self.read(i, epoch, sample) for i in self.samples.from_here_on(sample))
        return next_whole(candidates, f"{shard.samples} samples of {shard.url}")

    def name(self, sample: int) -> str:
        """`URL: sample 'KEY'`."""
        return self.samples.name(sample)

    def read(self, sample: int, epoch: int, place: int) -> dict[str, Any]:
        """A sample as the item (epoch, place): whole, or zeros that say why."""
        members = self.samples.members(sample)
        key, group = str(members["__key__"]), None
        bad: tuple[BadSample, ...] = ()
        try:
            image, label = self.decode(members, random.Random(f"{self.seed} {epoch} {place}"))
        except ValueError as error:
            bad = (self.samples.bad(sample, key, error),)
            image = torch.zeros(self.in_chans, *self.size, dtype=getattr(torch, self.pixels))
            label = self.target.missing
        if self.group and not bad:
            with suppress(ValueError):  # a json member that is none
                group = group_of(members, self.group)
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

    def decode(self, members: Members, rng: random.Random) -> tuple[torch.Tensor, Any]:
        """The image and the label among the members of a sample.

        Raises:
            ValueError: the sample is bad.
        """
        suffix = image_suffix(members)
        if suffix is None:
            raise ValueError(f"no image: expected one of {', '.join(IMAGE_SUFFIXES)}")
        encoded = members[suffix]
        assert isinstance(encoded, bytes)
        picture = open_image(encoded, suffix, self.in_chans, self.pixels)
        if self.joint_crop is not None:
            return self.joint_crop(picture, self.target(members), self.size, rng)
        if self.crop is not None:
            return self.crop(picture, self.size, rng), self.target(members)
        return centre_crop(picture, self.size), self.target(members)


def next_whole(items: Iterable[dict[str, Any]], these: str) -> dict[str, Any]:
    """The first item that is whole, with the bad samples that it takes the place of.

    Args:
        items: the one that is wanted, then those that may take its place.
        these: says which and how many they are.

    Raises:
        ValueError: none is whole.
    """
    bad = list[BadSample]()
    for item in items:
        bad += item["bad"]
        if item["whole"]:
            return item | {"bad": tuple(bad)}
    raise ValueError(f"none of the {these} can be read ({bad[0]}); take them out of data.train")


@runtime_checkable
class Samples(Protocol):
    """Items by (epoch, number), as those of ShardImages: all of some shards, or some of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]: ...

    def name(self, sample: int) -> str:
        """`URL: sample 'KEY'` of a number."""
        ...


def train_loader(
    shards: Sequence[Shard],
    config: DataConfig,
    batches: GlobalBatches,
    *,
    size: tuple[int, int],
    in_chans: int,
    pin_memory: bool,
) -> DataLoader[dict[str, Any]]:
    """Randomly cropped micro-batches of pretraining."""
    images = ShardImages(
        ShardSamples(shards, config.source),
        size=size,
        in_chans=in_chans,
        pixels=config.pixels,
        seed=batches.order.seed,
        crop=Crop(config.scale, config.flip),
        target=Unlabelled(),
        replace=True,
    )
    return batch_loader(images, batches, workers=config.workers, pin_memory=pin_memory)


def batch_loader(
    images: Samples,
    batches: Iterable[list[tuple[int, int]]],
    *,
    workers: int,
    pin_memory: bool = False,
) -> DataLoader[dict[str, Any]]:
    """These batches of (epoch, number), by processes that outlive the signals of a job.

    Never `prepare` it: the share of this process is chosen already.
    """
    return DataLoader(
        cast("Dataset[dict[str, Any]]", images),
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=pin_memory,
        collate_fn=collate,
        worker_init_fn=outlive_signals,
    )


def eval_loader(
    images: Samples, *, batch_size: int, workers: int, rank: int = 0, world: int = 1
) -> DataLoader[dict[str, Any]]:
    """Every world-th sample from `rank` on, once, in order; the last batch may be smaller."""
    mine = [(0, sample) for sample in range(rank, len(images), world)]
    return DataLoader(
        cast("Dataset[dict[str, Any]]", images),
        batch_size=batch_size,
        sampler=mine,
        num_workers=workers,
        collate_fn=collate,
    )


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch: tensors are stacked, `key` and `group` become lists, `bad` one list of them all."""
    lists = {
        "group": [item["group"] for item in items],
        "bad": [sample for item in items for sample in item["bad"]],
    }
    others = [{name: item[name] for name in item if name not in lists} for item in items]
    return default_collate(others) | lists
