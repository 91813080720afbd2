"""Which patches the encoder sees (ConvNeXt V2 section 3, "Masking"), and images as patches.

Letters: b images, c channels, h w pixels, p patch side, n = (h/p)(w/p) patches, v visible patches.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fcmae.architecture import visible_count


def draw_visible(
    b: int, n: int, ratio: float, *, generator: torch.Generator | None = None
) -> Bool[Tensor, "b n"]:
    """Draw int(n (1 - ratio)) visible patches of n for each of b images, uniformly.

    Returns:
        Bool[b, n] in raster order, True = the encoder sees the patch; on the generator's device.

    Raises:
        ValueError: see `fcmae.architecture.visible_count`.
    """
    device = generator.device if generator is not None else None
    return lowest(torch.rand(b, n, generator=generator, device=device), visible_count(n, ratio))


def draw_visible_of(
    seed: int, epoch: Int[Tensor, " b"], sample: Int[Tensor, " b"], n: int, ratio: float
) -> Bool[Tensor, "b n"]:
    """The visible patches of given samples: a function of (seed, epoch, sample) and nothing else.

    Neither rank, batch nor step enters (design: *Randomness*), so a mask is the same on any number
    of processes. Each patch gets a 64-bit key from a counter-based generator (SplitMix64, Steele,
    Lea, Flood 2014); the v lowest keys are visible.

    Raises:
        ValueError: see `fcmae.architecture.visible_count`.
    """
    patch = torch.arange(n, device=sample.device)
    keys = splitmix64(torch.full_like(sample, seed))  # hashed first, or seed + epoch would meet
    for counter in (epoch, sample):
        keys = splitmix64(keys + counter)
    return lowest(splitmix64(splitmix64(keys)[:, None] + patch), visible_count(n, ratio))


def splitmix64(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """SplitMix64's output for counter x. int64 wraps as uint64; `>>` must not copy the sign."""
    x = (x + 1) * -0x61C8864680B583EB  # the golden-ratio increment 0x9E3779B97F4A7C15, signed
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * factor
    return x ^ (x >> 31 & (1 << 33) - 1)


def lowest(keys: Tensor, count: int) -> Bool[Tensor, "b n"]:
    """True at the `count` lowest keys of each row; ties go to the earlier patch."""
    order = keys.argsort(dim=1, stable=True)
    return torch.zeros_like(keys, dtype=torch.bool).scatter_(1, order[:, :count], value=True)


def indices(chosen: Bool[Tensor, "b n"], count: int | None = None) -> Int[Tensor, "b k"]:
    """Raster indices of the True patches of each image.

    Args:
        chosen: as many True in every row.
        count: that number, where the caller knows it; reading it from a GPU tensor would make the
            host wait for the device.

    Raises:
        ValueError: rows differ, or not in `count` (looked at on the CPU only, for the same reason,
            and not in compiled code).
    """
    if count is None:
        count = int(chosen[0].sum())
    eager = chosen.device.type == "cpu" and not torch.compiler.is_compiling()
    if eager and not bool((totals := chosen.sum(1)).eq(count).all()):
        raise ValueError(
            f"images have {int(totals.min())} to {int(totals.max())} visible patches, not {count}:"
            " draw them with draw_visible(b, n, ratio) and the model's own ratio"
        )
    return chosen.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]


def patchify(images: Float[Tensor, "b c h w"], p: int) -> Float[Tensor, "b n p p c"]:
    """Images to patches in raster order, each [p, p, c]."""
    images = images.contiguous(
        memory_format=torch.channels_last
    )  # at once, a CPU takes 3 x as long
    return rearrange(images, "b c (gh p) (gw q) -> b (gh gw) p q c", p=p, q=p)


def unpatchify(
    patches: Float[Tensor, "b n p p c"], grid: tuple[int, int]
) -> Float[Tensor, "b c h w"]:
    """The inverse of `patchify` for a grid of (rows, columns) patches."""
    gh, gw = grid
    return rearrange(patches, "b (gh gw) p q c -> b c (gh p) (gw q)", gh=gh, gw=gw)
