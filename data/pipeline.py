"""The loader: images of shards, by the numbers that the order gives, as batches of tensors."""

import os
import random
import signal
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset

from data.decode import IMAGE_SUFFIXES, Picture, Pixels, image_suffix, open_image
from data.order import GlobalBatches
from data.shards.index import Shard
from data.shards.reading import LOCAL, read_sample
from data.shards.sources import SourceConfig
from data.targets import ClassTarget, Members, Target, Unlabelled
from data.transforms import IMAGENET_MEAN, IMAGENET_STD, Crop, Image, centre_crop

Crops = Callable[[Picture, tuple[int, int], random.Random], Image]
CLASS = ClassTarget()


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images come from and how they become tensors."""

    train: tuple[str, ...]
    """Shards: paths, URLs (http, s3, gs, hf) or patterns, as 'DIR/train-{000000..000003}.tar'."""
    window: int = 64
    """Shards whose samples are mixed, and which a node has to have at hand at a time."""
    max_bad_fraction: float = 0.01
    """Share of the samples that may be broken. They are skipped, counted and named."""
    scale: tuple[float, float] = (0.2, 1.0)
    """Share of the image's area that a random crop keeps: from, to."""
    flip: bool = True
    """Mirror half of the images left to right."""
    pixels: Pixels = "uint8"
    """uint8: every image in 8 bits. float32: images of 16 bits or floats, none of it lost."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Mean of each channel on the scale 0 to 1, or one value for all; none: the shards' own, which
    scripts/make_shards.py keeps in their index."""
    std: tuple[float, ...] = IMAGENET_STD
    """Standard deviation of each channel, or one value for all; none: the shards' own."""
    workers: int = 2
    """Processes that decode images, for each training process; they change no number."""
    source: SourceConfig = field(default_factory=SourceConfig)


class ShardImages(Dataset[dict[str, Any]]):
    """Images of shards, by (epoch, sample).

    An item is `{"image": UInt8|Float32[c, h, w], "key": str, "epoch": int, "sample": int,
    "label": target, "broken": str}`. A sample is broken if it has no image, one that cannot be
    decoded, or a label that is none of its target's kind; one without a label is not.

    A broken sample gives zeros and a missing label. With `replace` the next one of its shard that
    can be read takes its place, cropped and masked as the broken one would have been, so that
    batches stay full and depend on nothing else. `broken` has a line for each sample that was
    passed over, or nothing; it names the shard, by its URL where several have the name.

    Args:
        shards: in the order in which their samples are numbered.
        size: height and width in pixels.
        in_chans: channels of the images.
        pixels: "uint8" or "float32".
        seed: with epoch and sample it determines the crop and flip.
        crop: a random crop, a function of its generator; None for the centre.
        target: what samples are labelled with.
        replace: broken samples, which serves pretraining.
        source: how remote shards are read.

    Raises:
        ValueError: no sample of a shard can be read; the bytes of one are no tar.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        *,
        size: tuple[int, int],
        in_chans: int,
        pixels: Pixels = "uint8",
        seed: int = 0,
        crop: Crops | None = None,
        target: Target = CLASS,
        replace: bool = False,
        source: SourceConfig = LOCAL,
    ) -> None:
        self.shards, self.size, self.in_chans = shards, size, in_chans
        self.target, self.replace = target, replace
        self.pixels: Pixels = pixels
        self.seed, self.crop, self.source = seed, crop, source
        self.ends = list(accumulate(shard.samples for shard in shards))
        self.names = Counter(shard.name for shard in shards)

    def __len__(self) -> int:
        return self.ends[-1]

    def locate(self, sample: int) -> tuple[Shard, int]:
        """The shard of a sample, and its number therein."""
        number = bisect_right(self.ends, sample)
        shard = self.shards[number]
        return shard, sample - self.ends[number] + shard.samples

    def read(self, sample: int) -> tuple[Shard, dict[str, str | bytes]]:
        """The shard and the undecoded members of a sample."""
        shard, i = self.locate(sample)
        return shard, read_sample(shard, i, self.source)

    def name(self, items: Iterable[tuple[int, int]]) -> list[str]:
        """`URL: sample 'KEY'` of each (epoch, sample)."""
        read = (self.read(sample) for _, sample in items)
        return [f"{shard.url}: sample {members['__key__']!r}" for shard, members in read]

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        epoch, sample = item
        shard, first = self.locate(sample)
        # shards of one name lie in several directories: their samples are not to be taken for one
        named = shard.name if self.names[shard.name] == 1 else shard.url
        broken = []
        for i in range(first, first + shard.samples):
            members = read_sample(shard, i % shard.samples, self.source)
            try:
                image, label = self.decode(members, random.Random(f"{self.seed} {epoch} {sample}"))
                break
            except ValueError as error:
                broken.append(f"{named}: sample {members['__key__']!r}: {error}")
                if not self.replace:
                    shape = (self.in_chans, *self.size)
                    image = torch.zeros(shape, dtype=getattr(torch, self.pixels))
                    label = self.target.missing
                    break
        else:
            raise ValueError(
                f"{shard.url}: none of its {shard.samples} samples can be read ({broken[0]});"
                " take it out of data.train"
            )
        return {
            "image": image,
            "key": members["__key__"],
            "epoch": epoch,
            "sample": sample,
            "label": label,
            "broken": "\n".join(broken),
        }

    def open(self, members: Members) -> Picture:
        """The image among the members of a sample; raises ValueError if there is none."""
        suffix = image_suffix(members)
        if suffix is None:
            raise ValueError(f"no image: expected one of {', '.join(IMAGE_SUFFIXES)}")
        encoded = members[suffix]
        assert isinstance(encoded, bytes)
        return open_image(encoded, suffix, self.in_chans, self.pixels)

    def decode(self, members: Members, rng: random.Random) -> tuple[torch.Tensor, Any]:
        """Image and label; raises ValueError for a broken sample."""
        picture, crop = self.open(members), self.crop
        image = centre_crop(picture, self.size) if crop is None else crop(picture, self.size, rng)
        return image, self.target(members)


@runtime_checkable
class Samples(Protocol):
    """Samples by (epoch, number): all of some shards, or some of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]: ...


def train_loader(
    shards: Sequence[Shard],
    config: DataConfig,
    batches: GlobalBatches,
    *,
    size: tuple[int, int],
    in_chans: int,
    pin_memory: bool,
) -> DataLoader[dict[str, Any]]:
    """Randomly cropped micro-batches. Never `prepare` it: `batches` has sharded it already."""
    images = ShardImages(
        shards,
        size=size,
        in_chans=in_chans,
        pixels=config.pixels,
        seed=batches.order.seed,
        crop=Crop(config.scale, config.flip),
        target=Unlabelled(),
        replace=True,
        source=config.source,
    )
    return DataLoader(
        images,
        batch_sampler=batches,
        num_workers=config.workers,
        pin_memory=pin_memory,
        worker_init_fn=outlive_signals,
    )


def outlive_signals(worker: int) -> None:
    """Have a worker work on when a scheduler, or Ctrl-C, signals every process of a job.

    The training process needs its images to finish the step. Only its own SIGTERM ends the worker.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def obey_the_parent() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=obey_the_parent, daemon=True).start()


def eval_loader(
    images: Samples, *, batch_size: int, workers: int, rank: int = 0, world: int = 1
) -> DataLoader[dict[str, Any]]:
    """Every world-th sample from `rank` on, once, in order; the last batch may be smaller."""
    mine = [(0, sample) for sample in range(rank, len(images), world)]
    dataset = cast("Dataset[dict[str, Any]]", images)
    return DataLoader(dataset, batch_size=batch_size, sampler=mine, num_workers=workers)
