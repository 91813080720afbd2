"""The dataset: the images of shards with their labels, by epoch and number of the sample."""

import random
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import Dataset

from data.bad_samples import BadSample
from data.config import EIGHT_BITS, PixelConfig
from data.decode import Picture, encoded_image, open_image
from data.fitting import Fitted, Tiles
from data.shards.samples import ShardSamples
from data.targets import ClassTarget, Members, Target, group_of
from data.transforms import Image
from data.values import Statistics

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
