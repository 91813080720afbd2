"""The loader: the order of samples as a pure function of (seed, epoch), and batches of it.

All epochs are one endless sequence: position q is sample `epoch_order(...)[q % samples]` of epoch
q // samples. Step k takes positions [kB, (k+1)B) of it, for a global batch of B, whatever the
number of processes and workers; batches run across the end of an epoch, so every epoch holds each
sample exactly once and no batch is partial. `samples_seen` is the whole state.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from jaxtyping import Int64
from torch.utils.data import DataLoader, Dataset, Sampler

from data.index import Shard
from data.shards import read_sample
from data.transforms import IMAGENET_MEAN, IMAGENET_STD, Crop, centre_crop, decode

IMAGE_SUFFIXES = ("png", "jpg", "jpeg")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images come from and how they become tensors."""

    train: tuple[str, ...]
    """Shards: paths or brace patterns, as 'DIR/train-{000000..000003}.tar'."""
    scale: tuple[float, float] = (0.2, 1.0)
    """Share of the image's area that a random crop keeps: from, to."""
    flip: bool = True
    """Mirror half of the images left to right."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Mean of each channel on the scale 0 to 1, or one value for all."""
    std: tuple[float, ...] = IMAGENET_STD
    """Standard deviation of each channel, or one value for all."""
    workers: int = 2
    """Processes that decode images, for each training process; they change no number."""


def epoch_order(samples: int, seed: int, epoch: int) -> Int64[np.ndarray, " n"]:
    """The permutation in which epoch `epoch` visits the samples."""
    return np.random.default_rng([seed, epoch]).permutation(samples)


class GlobalBatches(Sampler[list[tuple[int, int]]]):
    """This process's share of each global batch, as lists of (epoch, sample), one a micro-batch.

    Args:
        samples: samples in all shards.
        seed: of the order.
        batch_size: global: over all processes and accumulated micro-batches.
        start: samples seen already.
        steps: how many global batches to give.
        rank: of this process, of `world`.
        world: processes.
        micro_batches: a step is accumulated over so many, on each process.

    Raises:
        ValueError: the batch does not divide into world x micro_batches.
    """

    def __init__(
        self,
        *,
        samples: int,
        seed: int,
        batch_size: int,
        start: int,
        steps: int,
        rank: int = 0,
        world: int = 1,
        micro_batches: int = 1,
    ) -> None:
        if micro_batches < 1:
            raise ValueError(f"optim.accumulate={micro_batches} must be at least 1 micro-batch")
        parts = world * micro_batches
        if batch_size < 1 or batch_size % parts:
            raise ValueError(
                f"optim.batch_size={batch_size} must be a multiple of processes x optim.accumulate"
                f" = {world} x {micro_batches}; try {max(1, -(-batch_size // parts)) * parts}"
            )
        self.samples, self.seed, self.batch_size = samples, seed, batch_size
        self.start, self.steps, self.rank = start, steps, rank
        self.micro_batches, self.micro_size = micro_batches, batch_size // (world * micro_batches)

    def __len__(self) -> int:
        return self.steps * self.micro_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        orders: dict[int, np.ndarray] = {}
        for step in range(self.steps):
            share = self.rank * self.micro_batches * self.micro_size
            first = self.start + step * self.batch_size + share
            for begin in range(
                first, first + self.micro_batches * self.micro_size, self.micro_size
            ):
                batch = []
                for position in range(begin, begin + self.micro_size):
                    epoch, place = divmod(position, self.samples)
                    if epoch not in orders:  # positions only grow: older orders are done with
                        orders = {epoch: epoch_order(self.samples, self.seed, epoch)}
                    batch.append((epoch, int(orders[epoch][place])))
                yield batch


class ShardImages(Dataset[dict[str, Any]]):
    """Images of shards, by (epoch, sample).

    An item is `{"image": UInt8[c, h, w], "epoch": int, "sample": int, "label": int}`.

    Args:
        shards: in the order in which their samples are numbered.
        size: height and width in pixels.
        in_chans: 1, 3 or 4.
        seed: with epoch and sample it determines the crop and flip.
        crop: random crop, or None for the centre.

    The label is -1 where a sample has none, and with random crops, which serve no labels. A
    broken image raises a ValueError that names it.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        *,
        size: tuple[int, int],
        in_chans: int,
        seed: int = 0,
        crop: Crop | None = None,
    ) -> None:
        self.shards, self.size, self.in_chans = shards, size, in_chans
        self.seed, self.crop = seed, crop
        self.ends = list(accumulate(shard.samples for shard in shards))

    def __len__(self) -> int:
        return self.ends[-1]

    def read(self, sample: int) -> tuple[Shard, dict[str, str | bytes]]:
        """The shard and the undecoded members of a sample."""
        number = bisect_right(self.ends, sample)
        shard = self.shards[number]
        return shard, read_sample(shard, sample - self.ends[number] + shard.samples)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        epoch, sample = item
        shard, members = self.read(sample)
        encoded = next((members[s] for s in IMAGE_SUFFIXES if s in members), None)
        where = f"{shard.url}: sample {members['__key__']!r}"
        if not isinstance(encoded, bytes):
            raise ValueError(f"{where} has no image: expected one of {', '.join(IMAGE_SUFFIXES)}")
        try:
            image = decode(encoded, self.in_chans)
            label = int(members.get("cls", -1)) if self.crop is None else -1
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if self.crop is None:
            image = centre_crop(image, self.size)
        else:
            rng = np.random.default_rng([self.seed, epoch, sample])
            image = self.crop(image, self.size, rng)
        return {"image": image, "epoch": epoch, "sample": sample, "label": label}


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
    crop = Crop(config.scale, config.flip)
    images = ShardImages(shards, size=size, in_chans=in_chans, seed=batches.seed, crop=crop)
    return DataLoader(
        images, batch_sampler=batches, num_workers=config.workers, pin_memory=pin_memory
    )


def eval_loader(
    images: ShardImages, *, batch_size: int, workers: int, rank: int = 0, world: int = 1
) -> DataLoader[dict[str, Any]]:
    """Every world-th sample from `rank` on, once, in order; the last batch may be smaller."""
    mine = [(0, sample) for sample in range(rank, len(images), world)]
    return DataLoader(images, batch_size=batch_size, sampler=mine, num_workers=workers)
