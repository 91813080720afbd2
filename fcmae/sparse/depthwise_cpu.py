"""The submanifold depthwise convolution as compiled loops over visible sites and taps, for CPUs.

    y[q] = bias + sum over taps t of weight[t] x[q + t]     x is zero at hidden sites
    dL/dweight[t] = sum over visible sites q of dL/dy[q] x[q + t]

An image's visible patches are laid out on a zero grid with a margin, small enough for the cache,
and the loops run over its visible sites only. Numba compiles them at first use for each patch side
and width: with both known, the loops over a row and its taps unroll into registers and vectorise
over channels. A library convolves the whole grid instead, and takes ten times as long for the
weight's gradient. Compiled code is cached on disk.
"""

import inspect
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from numba.core.config import reload_config
from numba.core.registry import cpu_target
from numba.cpython.unsafe import tuple as tuples
from torch import Tensor

from fcmae.run.files import spare_folder
from fcmae.run.terminal import say

put: Any = tuples.tuple_setitem  # (tuple, place, value) -> tuple; typed for Numba's compiler only
# Sums may be reordered and contracted; infinities and NaN must stay what they are.
FAST = {"contract", "reassoc"}


@torch.library.custom_op(  # torch.compile sees one operator where Numba's code runs
    "fcmae::depthwise",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor bias, Tensor visible, int gh, int gw) -> Tensor",
)
def depthwise(
    x: Float[Tensor, "b v s s d"],
    weight: Float[Tensor, "d 1 k k"],
    bias: Float[Tensor, " d"],
    visible: Int[Tensor, "b v"],
    gh: int,
    gw: int,
) -> Float[Tensor, "b v s s d"]:
    """Convolve the visible sites depthwise, on a grid of gh x gw patches.

    Args:
        x: the visible sites, s x s in each patch.
        weight: one k x k kernel for each channel.
        bias: one value for each channel.
        visible: raster indices of the visible patches of each image.
        gh: rows of patches.
        gw: columns of patches.
    """
    convolve, _ = loops(x.dtype, x.shape[2], x.shape[-1], weight.shape[-1], gw)
    visible = visible.contiguous()  # as of a single image: Numba compiles for each layout
    # copies, both: storage that NumPy shares cannot be resized, as FSDP2 does with parameters
    taps = array(weight.permute(2, 3, 1, 0).flatten())  # k, k, 1, d
    shift = array(bias.clone())
    out = torch.empty_like(x)

    def work(first: int, last: int) -> None:
        images = (array(t[first:last]) for t in (x, visible))
        convolve(*images, gh, taps, shift, array(out[first:last]))

    over_shares(len(x), work)
    return out


@torch.library.custom_op(
    "fcmae::depthwise_weight_gradient",
    mutates_args=(),
    schema="(Tensor x, Tensor grad, Tensor visible, int gh, int gw, int k) -> Tensor",
)
def weight_gradient(
    x: Float[Tensor, "b v s s d"],
    grad: Float[Tensor, "b v s s d"],
    visible: Int[Tensor, "b v"],
    gh: int,
    gw: int,
    k: int,
) -> Float[Tensor, "d 1 k k"]:
    """Compute the gradient for the k x k weight of `depthwise` from that for its output."""
    d = x.shape[-1]
    _, correlate = loops(x.dtype, x.shape[2], d, k, gw)
    visible = visible.contiguous()

    def work(first: int, last: int) -> Tensor:
        taps = x.new_zeros(k * k * d)
        images = (array(t[first:last]) for t in (x, visible))
        correlate(*images, gh, array(grad[first:last]), array(taps))
        return taps

    taps = torch.stack(over_shares(len(x), work)).sum(0).view(k, k, d)
    return taps.permute(2, 0, 1)[:, None].contiguous()


@depthwise.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, visible: Tensor, gh: int, gw: int) -> Tensor:
    return torch.empty_like(x)


@weight_gradient.register_fake
def _(x: Tensor, grad: Tensor, visible: Tensor, gh: int, gw: int, k: int) -> Tensor:
    return x.new_empty(x.shape[-1], 1, k, k)


def array(x: Tensor) -> np.ndarray:
    """View the memory of a tensor as a NumPy array."""
    return x.detach().numpy()


def over_shares(count: int, work: Callable[[int, int], Any]) -> list[Any]:
    """Split `count` items over torch's threads, and call `work(first, last)` in each of them."""
    threads = min(count, torch.get_num_threads())
    if threads == 1:
        return [work(0, count)]
    ends = [count * i // threads for i in range(threads + 1)]
    return list(pool(threads).map(work, ends[:-1], ends[1:]))


@lru_cache
def pool(threads: int) -> ThreadPoolExecutor:
    """Start threads that are kept; the compiled loops run without the interpreter's lock."""
    return ThreadPoolExecutor(threads, thread_name_prefix="taps")


def jit(*constants: object) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile loops with Numba, and keep their code on disk.

    It is kept beside the source, in the user's own cache, or in a temporary folder, which one line
    says. Numba lists all codes of a function in one file, and of two processes that add to it at
    once each may be listed with the code of the other. So the name of the function, and with it
    that of the file, tells all that a code is for: then both add the same.

    Args:
        constants: what the loops take from outside, the type of their arrays included.
    """

    def compiled(loops: Callable[..., Any]) -> Callable[..., Any]:
        loops = inspect.unwrap(loops)
        loops.__qualname__ = "_".join(map(str, (loops.__qualname__, *constants, processor())))
        try:
            return part(loops, cache=True)
        except RuntimeError:  # Numba finds no folder that it can write
            folder = spare_folder()
            say_where(folder)
            if folder is None:
                return part(loops)
            os.environ["NUMBA_CACHE_DIR"] = str(folder / "numba")
            reload_config()
            return part(loops, cache=True)

    return compiled


def part(loops: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile what compiled loops call, without the wrapper that checks shapes in tests."""
    compiler = numba.njit(nogil=True, fastmath=FAST, error_model="numpy", **options)
    return compiler(inspect.unwrap(loops))


@lru_cache
def processor() -> str:
    """A short name of the processor that Numba compiles for, its features included."""
    context: Any = cpu_target.target_context
    return f"{crc32(repr(context.codegen().magic_tuple()).encode()):08x}"


@lru_cache
def say_where(folder: Path | None) -> None:
    """Say, once, where compiled code is kept, since no usual place can be written."""
    where = "nowhere, and compiled at each start" if folder is None else f"in {folder}"
    say(
        "neither the folder of the code nor the user's own can be written: compiled loops are kept"
        f" {where}; set NUMBA_CACHE_DIR to another folder",
        error=True,
    )


@part
def lay_out(x, visible, gw, margin, grid):  # type: ignore[no-untyped-def]  # numba infers types
    """Lay the patches [v, s, s d] of one image out on a zero grid [rows, columns d]."""
    v, s, row = x.shape
    d = row // s
    grid[:] = 0
    for p in range(v):
        top = visible[p] // gw * s + margin
        left = (visible[p] % gw * s + margin) * d
        for y in range(s):
            grid[top + y, left : left + row] = x[p, y]


@lru_cache
def loops(
    dtype: torch.dtype, s: int, d: int, k: int, gw: int
) -> tuple[Callable[..., None], Callable[..., None]]:
    """Compile the loops of `depthwise` and of `weight_gradient`.

    Arrays are flat. Since s, d, k and the pitch of the grid are constants, every address in the
    innermost loops is a base plus a constant, and the loop over channels becomes vectors without
    checks for overlap. Sums are tuples, which stay in registers until they are stored.

    Args:
        dtype: the type of all arrays of real numbers.
        s: side of a patch, in sites.
        d: number of channels.
        k: side of the kernel, in sites.
        gw: columns of patches in the grid.
    """
    margin = k // 2
    pitch = (gw * s + k - 1) * d
    zero = torch.zeros((), dtype=dtype).numpy()[()]
    row_of_sites = (zero,) * s
    row_of_taps = (zero,) * k

    @jit(zero.dtype, s, d, k, gw)
    def convolve(x, visible, gh, taps, bias, out):  # type: ignore[no-untyped-def]
        b, v = visible.shape
        x = x.reshape(b, v, s, s * d)
        out = out.reshape(b, v, s, s * d)
        grid = np.empty((gh * s + k - 1, pitch), x.dtype)
        for image in range(b):
            lay_out(x[image], visible[image], gw, margin, grid)
            flat = grid.reshape(grid.size)
            for p in range(v):
                corner = visible[image, p] // gw * s * pitch + visible[image, p] % gw * s * d
                for y in range(s):
                    row = out[image, p, y]
                    near = flat[corner + y * pitch :]
                    for column in range(s):
                        row[column * d : (column + 1) * d] = bias
                    for i in range(k):
                        for c in range(d):
                            sums = row_of_sites
                            for column in range(s):
                                sums = put(sums, column, row[column * d + c])
                            for j in range(k):
                                tap = taps[(i * k + j) * d + c]
                                for column in range(s):
                                    site = near[i * pitch + (column + j) * d + c]
                                    sums = put(sums, column, sums[column] + site * tap)
                            for column in range(s):
                                row[column * d + c] = sums[column]

    @jit(zero.dtype, s, d, k, gw)
    def correlate(x, visible, gh, grad, taps):  # type: ignore[no-untyped-def]
        b, v = visible.shape
        x = x.reshape(b, v, s, s * d)
        grad = grad.reshape(b, v, s, s * d)
        grid = np.empty((gh * s + k - 1, pitch), x.dtype)
        for image in range(b):
            lay_out(x[image], visible[image], gw, margin, grid)
            flat = grid.reshape(grid.size)
            for p in range(v):
                corner = visible[image, p] // gw * s * pitch + visible[image, p] % gw * s * d
                for y in range(s):
                    row = grad[image, p, y]
                    near = flat[corner + y * pitch :]
                    for i in range(k):
                        for c in range(d):
                            sums = row_of_taps
                            for j in range(k):
                                sums = put(sums, j, taps[(i * k + j) * d + c])
                            for column in range(s):
                                slope = row[column * d + c]
                                for j in range(k):
                                    site = near[i * pitch + (column + j) * d + c]
                                    sums = put(sums, j, sums[j] + site * slope)
                            for j in range(k):
                                taps[(i * k + j) * d + c] = sums[j]

    return convolve, correlate
