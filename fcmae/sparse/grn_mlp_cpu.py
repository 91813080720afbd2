"""The element-wise parts of `grn_mlp`'s backward in bfloat16 as compiled loops, for CPUs.

    z = f a + beta,  dL/df = sum D a                    a = gelu(h) = h Phi(h)
    dL/dh = (f D + s a) (Phi(h) + h phi(h)),  dL/db1 = sum dL/dh        s = (dL/dn) / n

PyTorch takes a pass over memory and rounds for each operation, and its gradient of GELU alone takes
as long as these loops do. They read and write bfloat16 and compute in float32.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import BFloat16, Float
from numpy import float32, int32, uint16, uint32
from torch import Tensor

from fcmae.sparse.depthwise_cpu import jit, over_shares, part

ONE, HALF, LN2, LOG2E = (float32(c) for c in (1, 0.5, math.log(2), math.log2(math.e)))
DENSITY_AT_0 = float32((2 * math.pi) ** -0.5)
SQRT_HALF = float32(0.5**0.5)
# erf(x) = 1 - t (A0 + A1 t + ...) exp(-x^2) with t = 1 / (1 + P x), to 1.5e-7: Abramowitz and
# Stegun 7.1.26. exp by its series on half an octave, to 3e-6.
P = float32(0.3275911)
A0, A1, A2, A3, A4 = (
    float32(c) for c in (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
)
E2, E3, E4, E5 = (float32(1 / math.factorial(i)) for i in (2, 3, 4, 5))


def z_and_df(
    a: BFloat16[Tensor, "b r e"],
    dz: BFloat16[Tensor, "b r e"],
    factor: Float[Tensor, "b 1 e"],
    beta: Float[Tensor, " e"],
) -> tuple[BFloat16[Tensor, "b r e"], Float[Tensor, "b 1 e"]]:
    """Compute z and dL/df as `grn_mlp.z_and_df` does, by compiled loops in bfloat16."""
    b, r, e = a.shape
    z = torch.empty_like(a)
    first_pass, _ = loops(e)
    arrays = (bits(a), bits(dz), floats(factor[:, 0]), floats(beta), bits(z))

    def work(first: int, last: int) -> Tensor:
        sums = torch.zeros(b, e)
        first_pass(first, last, *arrays, sums.numpy())
        return sums

    return z, torch.stack(over_shares(r, work)).sum(0)[:, None]


def dh_and_db(
    h: BFloat16[Tensor, "b r e"],
    a: BFloat16[Tensor, "b r e"],
    dz: BFloat16[Tensor, "b r e"],
    factor: Float[Tensor, "b 1 e"],
    slope: Float[Tensor, "b 1 e"],
) -> tuple[BFloat16[Tensor, "b r e"], Float[Tensor, " e"]]:
    """Compute dL/dh, in the place of dz, and dL/db1 as `grn_mlp.dh_and_db` does, in bfloat16."""
    _, r, e = h.shape
    _, second_pass = loops(e)
    arrays = (bits(h), bits(a), floats(factor[:, 0]), floats(slope[:, 0]), bits(dz))

    def work(first: int, last: int) -> Tensor:
        sums = torch.zeros(e)
        second_pass(first, last, *arrays, sums.numpy())
        return sums

    return dz, torch.stack(over_shares(r, work)).sum(0)


def bits(x: BFloat16[Tensor, "..."]) -> np.ndarray:
    """View the memory of a bfloat16 tensor as NumPy's uint16, since NumPy has no bfloat16."""
    return x.view(torch.uint16).numpy()


def floats(x: Float[Tensor, "..."]) -> np.ndarray:
    """Copy a small tensor to a NumPy array of float32; one that shares memory blocks FSDP2."""
    return x.detach().to(torch.float32, copy=True).numpy()


@part
def widen(x):  # type: ignore[no-untyped-def]  # numba infers types
    """Turn the bits of a bfloat16 into the float32 of the same value."""
    return uint32(uint32(x) << uint32(16)).view(float32)


@part
def narrow(x):  # type: ignore[no-untyped-def]
    """Round to the nearest bfloat16, ties to even; infinities and NaN stay what they are."""
    y = float32(x).view(uint32)
    rounded = (y + uint32(0x7FFF) + ((y >> uint32(16)) & uint32(1))) >> uint32(16)
    return uint16(rounded) if x == x else uint16(0x7FC0)


@part
def normal(h):  # type: ignore[no-untyped-def]
    """Compute the standard normal distribution Phi(h) and its density phi(h)."""
    octaves = max(-HALF * LOG2E * h * h, float32(-126))  # exp(-h^2/2) = 2^octaves
    whole = np.floor(octaves + HALF)
    u = (octaves - whole) * LN2
    power = int32((int32(whole) + int32(127)) << int32(23)).view(float32)
    bell = power * (ONE + u * (ONE + u * (E2 + u * (E3 + u * (E4 + u * E5)))))
    t = ONE / (ONE + P * SQRT_HALF * abs(h))
    tail = HALF * bell * t * (A0 + t * (A1 + t * (A2 + t * (A3 + t * A4))))
    return (tail if h < 0 else ONE - tail), DENSITY_AT_0 * bell


@lru_cache
def loops(e: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Compile the loops of `z_and_df` and of `dh_and_db` for rows of e channels.

    They take the rows from `first` to before `last` of each image, and add up into `sums`.
    """

    @jit(e)
    def first_pass(first, last, a, dz, factor, beta, z, sums):  # type: ignore[no-untyped-def]
        for image in range(len(a)):
            f = factor[image]
            total = sums[image]
            for row in range(first, last):
                as_ = a[image, row]
                ds = dz[image, row]
                zs = z[image, row]
                for c in range(e):
                    zs[c] = narrow(f[c] * widen(as_[c]) + beta[c])
                    total[c] += widen(ds[c]) * widen(as_[c])

    @jit(e)
    def second_pass(first, last, h, a, factor, slope, dz, sums):  # type: ignore[no-untyped-def]
        for image in range(len(h)):
            f = factor[image]
            s = slope[image]
            for row in range(first, last):
                hs = h[image, row]
                as_ = a[image, row]
                ds = dz[image, row]
                for c in range(e):
                    x = widen(hs[c])
                    below, density = normal(x)
                    dh = (f[c] * widen(ds[c]) + s[c] * widen(as_[c])) * (below + x * density)
                    ds[c] = narrow(dh)
                    sums[c] += dh

    return first_pass, second_pass
