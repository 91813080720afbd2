"""The order of samples: pure, whole, mixed, and found at any position at once."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.order import GlobalBatches, Order

quick = settings(derandomize=True, deadline=None, max_examples=60)
sizes_of_shards = st.lists(st.integers(1, 40), min_size=1, max_size=12)
seeds = st.integers(0, 2**32 - 1)


def batches(order: Order, world: int = 1, micro: int = 1, **options: int) -> list[list]:
    """The global batches, put together from the shares of all ranks in each micro-batch."""
    ranks = [
        list(GlobalBatches(order, rank=rank, world=world, micro_batches=micro, **options))
        for rank in range(world)
    ]
    return [
        [
            item
            for number in range(step * micro, (step + 1) * micro)
            for rank in ranks
            for item in rank[number]
        ]
        for step in range(options["steps"])
    ]


@quick
@given(sizes_of_shards, seeds, st.integers(1, 5), st.integers(0, 3))
def test_every_epoch_holds_each_sample_exactly_once(sizes, seed, window, epoch):
    order = Order(sizes, seed, window)
    n = sum(sizes)
    items = [order[q] for q in range(epoch * n, (epoch + 1) * n)]
    assert sorted(items) == [(epoch, sample) for sample in range(n)]


@quick
@given(
    sizes_of_shards,
    seeds,
    st.integers(1, 5),
    st.integers(1, 8),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 200),
)
def test_global_batches_do_not_depend_on_processes(sizes, seed, window, world, micro, each, start):
    options = {"batch_size": world * micro * each, "start": start, "steps": 5}
    one = batches(Order(sizes, seed, window), **options)
    assert batches(Order(sizes, seed, window), world, micro, **options) == one


@quick
@given(sizes_of_shards, seeds, st.integers(1, 5), st.integers(1, 16), st.integers(0, 6))
def test_resumed_batches_equal_the_uninterrupted_ones(sizes, seed, window, size, done):
    whole = batches(Order(sizes, seed, window), batch_size=size, start=0, steps=9)
    rest = batches(Order(sizes, seed, window), batch_size=size, start=done * size, steps=9 - done)
    assert rest == whole[done:]


@quick
@given(sizes_of_shards, seeds, st.integers(1, 5))
def test_no_more_than_a_window_of_shards_is_at_hand(sizes, seed, window):
    order, ends = Order(sizes, seed, window), np.cumsum(sizes)
    shards = [int(np.searchsorted(ends, order[q][1], side="right")) for q in range(sum(sizes))]
    left = {shard: shards.count(shard) for shard in shards}
    begun = set()
    for shard in shards:
        begun.add(shard)
        left[shard] -= 1
        assert sum(left[one] > 0 for one in begun) <= window


def test_order_is_a_function_of_seed_and_epoch():
    def epoch(seed: int, number: int) -> list[int]:
        order = Order([30, 20, 50], seed, 2)
        return [order[number * 100 + place][1] for place in range(100)]

    assert epoch(1, 2) == epoch(1, 2)
    assert len({tuple(epoch(*it)) for it in ((1, 2), (1, 3), (2, 2), (2, 1))}) == 4


def test_a_batch_mixes_many_shards_and_the_epoch_keeps_no_trace_of_their_order():
    order = Order([1000] * 400, 0, 64)
    samples = np.array([order[q][1] for q in range(400_000)])
    shards = samples // 1000
    distinct = [len(set(batch)) for batch in shards.reshape(-1, 400)[:900]]
    # of 400 draws from the 58 shards of a window (7 of them, evenly filled) next to none is missed
    assert min(distinct) > 40
    # a permutation's standard error is 1 / sqrt(400,000) = 0.0016; windows make it coarser
    assert abs(np.corrcoef(samples, np.arange(400_000))[0, 1]) < 0.15
    assert abs(np.corrcoef(shards[:-1] % 58, shards[1:] % 58)[0, 1]) < 0.02


def test_windows_are_even():
    order = Order([10] * 65, 0, 64)  # not 64 shards and then a single one
    first = {order[q][1] // 10 for q in range(330)}
    assert len(first) == 33


@pytest.mark.parametrize("shards", [10_000, 40_000])
def test_resuming_far_into_a_large_index_takes_well_under_a_second(shards):
    order, start = Order([1000] * shards, 0, 64), shards * 1000 * 3 // 4
    began = time.process_time()
    first = next(iter(GlobalBatches(order, batch_size=4096, start=start, steps=10)))
    assert time.process_time() - began < 1
    assert len(set(first)) == 4096


@pytest.mark.parametrize("batch_size", [0, 6])
def test_a_batch_that_does_not_divide_is_refused(batch_size):
    with pytest.raises(ValueError, match=rf"optim.batch_size={batch_size} must be a multiple of"):
        GlobalBatches(
            Order([9], 0, 1), batch_size=batch_size, start=0, steps=1, world=2, micro_batches=2
        )


def test_a_window_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"data\.window=0 must be at least 1 shard"):
        Order([9], 0, 0)
