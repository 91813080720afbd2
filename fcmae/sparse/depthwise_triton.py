"""The Triton kernels of the submanifold depthwise convolution.

A program has some patches and some channels. It reads each row of sites around them once, and adds
a site to all sums that it belongs to: those of the outputs of its row, or those of the taps.
"""

# pyright: reportGeneralTypeIssues=false
# (to Python, static_range of Triton is no iterator)

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl


def kernel(function: Callable[..., Any]) -> Any:
    """Make a kernel of a function, without the wrapper that checks shapes in tests."""
    taken = inspect.signature(function).parameters
    numbers = {"patches", "v", "gh", "gw", "turns"}  # or other batches would get code of their own
    options: Any = {"do_not_specialize": sorted(numbers.intersection(taken))}
    return triton.jit(inspect.unwrap(function), **options)


@kernel
def put(values, place: tl.constexpr, value):  # type: ignore[no-untyped-def]
    """Replace an entry of a tuple."""
    return values[:place] + (value,) + values[place + 1 :]  # noqa: RUF005  # Triton knows no star


@kernel
def row_at(slots, image, y, column, there, v, gh, gw, D: tl.constexpr, S: tl.constexpr):  # type: ignore[no-untyped-def]
    """Find row y of sites, in a column of patches: whether one is seen there, and where it lies."""
    seen = there & (y >= 0) & (y < gh * S) & (column >= 0) & (column < gw)
    slot = tl.load(slots + (image * gh + y // S) * gw + column, mask=seen, other=-1)
    row = ((image * v + slot) * S + y % S) * S
    return seen & (slot >= 0), row.to(tl.int64) * D


@kernel
def convolve(  # type: ignore[no-untyped-def]
    x,
    taps,
    bias,
    out,
    visible,
    slots,
    patches,
    v,
    gh,
    gw,
    D: tl.constexpr,
    S: tl.constexpr,
    K: tl.constexpr,
    FLIPPED: tl.constexpr,
    SUM: tl.constexpr,
    P: tl.constexpr,
    C: tl.constexpr,
):
    """Compute P patches of C channels: a lane is a row of a patch, with a sum for each column."""
    R: tl.constexpr = K // 2
    REACH: tl.constexpr = (K // 2 + S - 1) // S  # patches to each side that taps reach
    lane = tl.arange(0, P * S)
    patch = tl.program_id(0) * P + lane // S
    channel = tl.program_id(1) * C + tl.arange(0, C)
    real = channel < D
    there = patch < patches
    image = patch // v
    place = tl.load(visible + patch, mask=there, other=0).to(tl.int32)
    start = tl.zeros((P * S, C), SUM)
    if not FLIPPED:
        start += tl.load(bias + channel, mask=real, other=0).to(SUM)[None, :]
    sums = (start,) * S
    for i in range(K):
        y = place // gw * S + lane % S + i - R
        for step in tl.static_range(2 * REACH + 1):
            column = place % gw + (step - REACH)
            seen, row = row_at(slots, image, y, column, there, v, gh, gw, D, S)
            for site in tl.static_range(S):
                if site + (step - REACH) * S >= -R and site + (step - REACH) * S < S + R:
                    value = tl.load(
                        x + (row + site * D)[:, None] + channel[None, :],
                        mask=seen[:, None] & real[None, :],
                        other=0,
                    ).to(SUM)
                    for o in tl.static_range(S):
                        if (
                            site + (step - REACH) * S - o + R >= 0
                            and site + (step - REACH) * S - o + R < K
                        ):
                            tap = i * K + site + (step - REACH) * S - o + R
                            if FLIPPED:
                                tap = K * K - 1 - tap
                            w = tl.load(taps + tap * D + channel, mask=real, other=0).to(SUM)
                            sums = put(sums, o, sums[o] + value * w[None, :])
    first = (patch * S + lane % S).to(tl.int64) * S * D
    for o in tl.static_range(S):
        tl.store(
            out + (first + o * D)[:, None] + channel[None, :],
            sums[o].to(out.dtype.element_ty),
            mask=there[:, None] & real[None, :],
        )


@kernel
def correlate(  # type: ignore[no-untyped-def]
    x,
    grad,
    partial,
    visible,
    slots,
    patches,
    v,
    gh,
    gw,
    turns,
    D: tl.constexpr,
    S: tl.constexpr,
    K: tl.constexpr,
    SUM: tl.constexpr,
    P: tl.constexpr,
    C: tl.constexpr,
):
    """Sum up one row of taps, and with the first one the bias, over `turns` times P patches."""
    R: tl.constexpr = K // 2
    REACH: tl.constexpr = (K // 2 + S - 1) // S
    i = tl.program_id(2)
    lane = tl.arange(0, P * S)
    channel = tl.program_id(1) * C + tl.arange(0, C)
    real = channel < D
    start = tl.zeros((P * S, C), SUM)
    sums = (start,) * K
    whole = start
    for turn in range(turns):
        patch = (tl.program_id(0) * turns + turn) * P + lane // S
        there = patch < patches
        image = patch // v
        place = tl.load(visible + patch, mask=there, other=0).to(tl.int32)
        first = (patch * S + lane % S).to(tl.int64) * S * D
        slopes = ()
        for o in tl.static_range(S):
            slope = tl.load(
                grad + (first + o * D)[:, None] + channel[None, :],
                mask=there[:, None] & real[None, :],
                other=0,
            ).to(SUM)
            slopes = slopes + (slope,)  # noqa: RUF005
            whole += slope
        y = place // gw * S + lane % S + i - R
        for step in tl.static_range(2 * REACH + 1):
            column = place % gw + (step - REACH)
            seen, row = row_at(slots, image, y, column, there, v, gh, gw, D, S)
            for site in tl.static_range(S):
                if site + (step - REACH) * S >= -R and site + (step - REACH) * S < S + R:
                    value = tl.load(
                        x + (row + site * D)[:, None] + channel[None, :],
                        mask=seen[:, None] & real[None, :],
                        other=0,
                    ).to(SUM)
                    for o in tl.static_range(S):
                        if (
                            site + (step - REACH) * S - o + R >= 0
                            and site + (step - REACH) * S - o + R < K
                        ):
                            sums = put(
                                sums,
                                site + (step - REACH) * S - o + R,
                                sums[site + (step - REACH) * S - o + R] + value * slopes[o],
                            )
    chunk = partial + tl.program_id(0).to(tl.int64) * (K * K + 1) * D + channel
    for j in tl.static_range(K):
        tl.store(chunk + (i * K + j) * D, tl.sum(sums[j], 0), mask=real)
    if i == 0:
        tl.store(chunk + K * K * D, tl.sum(whole, 0), mask=real)
