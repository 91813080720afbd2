"""The order of samples: a pure function of the seed, the epoch and the sizes of the shards.

The shards of an epoch are shuffled and dealt into windows of about `window` shards; the samples of
a window are shuffled among each other. So a batch mixes many shards, while a process has to have no
more than a window of them at hand and goes through the shards one window after the other. Up to
`window` shards, an epoch is one permutation of all samples.

All epochs are one endless sequence of positions: position q is place q % samples of epoch
q // samples. Step k takes positions [kB, (k+1)B) of it, for a global batch of B, whatever the
number of processes and workers; batches run across the end of an epoch, so every epoch holds each
sample exactly once and no batch is partial. `samples_seen` is the whole state.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int64
from torch.utils.data import Sampler


class Order:
    """Which sample comes at which position.

    Args:
        sizes: samples of each shard; sample numbers count through them.
        seed: with the epoch it determines the order.
        window: shards that are mixed.

    Raises:
        ValueError: a window of no shards.
    """

    def __init__(self, sizes: Sequence[int], seed: int, window: int) -> None:
        if window < 1:
            raise ValueError(f"data.window={window} must be at least 1 shard")
        self.sizes, self.seed = np.asarray(sizes), seed
        self.firsts = np.cumsum(self.sizes) - self.sizes
        self.samples = int(self.sizes.sum())
        self.windows = -(-len(self.sizes) // window)
        self._epoch, self._shards, self._ends = -1, list[np.ndarray](), np.empty(0)
        self._window, self._order = (-1, -1), np.empty(0, np.int64)

    def __getitem__(self, position: int) -> tuple[int, int]:
        """Epoch and sample; neighbours are cheap, a new epoch or window is shuffled once."""
        epoch, place = divmod(position, self.samples)
        if epoch != self._epoch:
            shards = np.random.default_rng([self.seed, epoch, 0, 1]).permutation(len(self.sizes))
            self._epoch, self._shards = epoch, np.array_split(shards, self.windows)
            self._ends = np.cumsum([self.sizes[window].sum() for window in self._shards])
        window = int(np.searchsorted(self._ends, place, side="right"))
        if (epoch, window) != self._window:
            self._window, self._order = (epoch, window), self._shuffled(epoch, window)
        return epoch, int(self._order[place - self._ends[window]])  # from the window's end

    def _shuffled(self, epoch: int, window: int) -> Int64[np.ndarray, " n"]:
        runs = [
            np.arange(int(self.firsts[shard]), int(self.firsts[shard] + self.sizes[shard]))
            for shard in self._shards[window]
        ]
        # crops take [seed, epoch, sample], which equals [seed, epoch, sample, 0]
        rng = np.random.default_rng([self.seed, epoch, window, 2])
        return rng.permutation(np.concatenate(runs))


class GlobalBatches(Sampler[list[tuple[int, int]]]):
    """This process's share of each global batch, as lists of (epoch, sample), one a micro-batch.

    Args:
        order: of the samples.
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
        self.order, self.batch_size = order, batch_size
        self.start, self.steps, self.rank = start, steps, rank
        self.micro_batches, self.micro_size = micro_batches, batch_size // parts
        self.share = micro_batches * self.micro_size

    def __len__(self) -> int:
        return self.steps * self.micro_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.steps):
            first = self.start + step * self.batch_size + self.rank * self.share
            for begin in range(first, first + self.share, self.micro_size):
                yield [self.order[position] for position in range(begin, begin + self.micro_size)]

    def of_step(self, step: int, rank: int) -> list[tuple[int, int]]:
        """All (epoch, sample) of a process in the run's step `step`, counted from 0."""
        first = step * self.batch_size + rank * self.share
        return [self.order[position] for position in range(first, first + self.share)]
