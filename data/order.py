"""The order of samples: a pure function of the seed, the epoch and the sizes of the shards.

In each epoch, the shards are shuffled and dealt into windows of about `window` shards, and the
samples of a window are shuffled together. So a batch mixes many shards, while a process needs only
one window of them at a time. With at most `window` shards, an epoch is one permutation of all
samples.

All epochs form one endless sequence of positions: position q is place q % samples of epoch
q // samples. For a global batch of B, step k takes the positions [kB, (k+1)B), whatever the number
of processes and workers. Batches run across the end of an epoch, so every epoch has each sample
exactly once and no batch is partial. `samples_seen` is the whole state.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Int64
from torch.utils.data import Sampler


class Order:
    """The sample at each position: `order[position]` is (epoch, sample).

    Args:
        sizes: The number of samples in each shard. The numbers of samples run through all shards.
        seed: The seed, which determines the order together with the epoch.
        window: The number of shards whose samples are mixed.

    Raises:
        ValueError: `window` is below 1.
    """

    def __init__(self, sizes: Sequence[int], seed: int, window: int) -> None:
        if window < 1:
            raise ValueError(f"data.window={window} must be at least 1 shard")
        self.sizes = np.asarray(sizes)
        self.seed = seed
        self.firsts = np.cumsum(self.sizes) - self.sizes
        self.samples = int(self.sizes.sum())
        self.windows = -(-len(self.sizes) // window)
        # neighbouring positions share an epoch and mostly a window, which are shuffled once
        self.windows_of = lru_cache(1)(self.shuffle_shards)
        self.samples_of = lru_cache(1)(self.shuffle_samples)

    def __getitem__(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, self.samples)
        _, ends = self.windows_of(epoch)
        window = int(np.searchsorted(ends, place, side="right"))
        return epoch, int(self.samples_of(epoch, window)[place - ends[window]])  # from its end

    def shuffle_shards(self, epoch: int) -> tuple[list[np.ndarray], Int64[np.ndarray, " windows"]]:
        """The shards of each window of an epoch, and the place at which each window ends."""
        shards = np.random.default_rng([self.seed, epoch, 0, 1]).permutation(len(self.sizes))
        windows = np.array_split(shards, self.windows)
        return windows, np.cumsum([self.sizes[window].sum() for window in windows])

    def shuffle_samples(self, epoch: int, window: int) -> Int64[np.ndarray, " n"]:
        """The samples of a window in their order."""
        windows, _ = self.windows_of(epoch)
        runs = [
            np.arange(int(self.firsts[shard]), int(self.firsts[shard] + self.sizes[shard]))
            for shard in windows[window]
        ]
        # crops use [seed, epoch, sample], which is the same as [seed, epoch, sample, 0]
        rng = np.random.default_rng([self.seed, epoch, window, 2])
        return rng.permutation(np.concatenate(runs))


class GlobalBatches(Sampler[list[tuple[int, int]]]):
    """One process's share of each global batch: a list of (epoch, sample) for each micro-batch.

    All processes together have the same images in a micro-batch, however many they are, since batch
    norm takes the statistics of these.

    Args:
        order: The order of the samples.
        batch_size: The global batch size, over all processes and micro-batches.
        start: The number of samples that the run has seen already.
        steps: The number of global batches.
        rank: The rank of this process.
        world: The number of processes.
        micro_batches: The number of micro-batches that a process accumulates in one step.

    Raises:
        ValueError: `batch_size` is no multiple of world x micro_batches.
    """

    def __init__(
        self,
        order: Order,
        *,
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
        self.order = order
        self.batch_size = batch_size
        self.start = start
        self.steps = steps
        self.rank = rank
        self.world = world
        self.micro_batches = micro_batches
        self.micro_size = batch_size // parts

    def __len__(self) -> int:
        return self.steps * self.micro_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.steps):
            for micro in range(self.micro_batches):
                yield self.part(self.start + step * self.batch_size, micro, self.rank)

    def of_step(self, step: int, rank: int) -> list[tuple[int, int]]:
        """All (epoch, sample) that a process takes in a step, counted from the start of the run."""
        parts = (
            self.part(step * self.batch_size, micro, rank) for micro in range(self.micro_batches)
        )
        return [item for part in parts for item in part]

    def part(self, position: int, micro: int, rank: int) -> list[tuple[int, int]]:
        """All (epoch, sample) of a process in a micro-batch of the step that begins there."""
        first = position + (micro * self.world + rank) * self.micro_size
        return [self.order[p] for p in range(first, first + self.micro_size)]
