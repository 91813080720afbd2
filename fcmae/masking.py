"""Which patches the encoder sees (ConvNeXt V2 section 3, "Masking"), and images as patches.

Letters: b images, c channels, h w pixels, p patch side, n = (h/p)(w/p) patches, v visible patches.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fcmae.patches import patch_grid, visible_count


def draw_visible(
    b: int, n: int, ratio: float, *, generator: torch.Generator | None = None
) -> Bool[Tensor, "b n"]:
    """Draw int(n (1 - ratio)) visible patches of n for each of b images, uniformly.

    Args:
        b: number of images.
        n: number of patches in an image.
        ratio: share of the patches to hide.
        generator: source of the random numbers; the global one by default.

    Returns:
        Bool[b, n] in raster order, True = the encoder sees the patch; on the generator's device.

    Raises:
        ValueError: the ratio is outside [0, 1), or leaves no visible patch.
    """
    device = generator.device if generator is not None else None
    return lowest(torch.rand(b, n, generator=generator, device=device), visible_count(n, ratio))


def draw_visible_of(
    seed: int,
    epoch: Int[Tensor, " b"],
    sample: Int[Tensor, " b"],
    n: int,
    ratio: float,
    views: int = 1,
) -> Bool[Tensor, "bv n"]:
    """Draw the visible patches of given samples, from (seed, epoch, sample, view) and nothing else.

    Since neither rank, batch nor step enters, they are the same on any number of processes. Each
    patch gets a 64-bit key from a counter-based generator (SplitMix64: Steele, Lea and Flood 2014),
    and the patches with the v = int(n (1 - ratio)) lowest keys are visible.

    Args:
        seed: seed of the run.
        epoch: number of the pass over the data, for each of b images.
        sample: index of the sample in the data set, for each of b images.
        n: number of patches in an image.
        ratio: share of the patches to hide.
        views: number of views of each sample, the first of which does not depend on it.

    Returns:
        Bool[b views, n] in raster order, True = the encoder sees the patch; the views of a sample
        one after the other.

    Raises:
        ValueError: the ratio is outside [0, 1), or leaves no visible patch.
    """
    patch = torch.arange(views * n, device=sample.device)
    keys = splitmix64(torch.full_like(sample, seed))  # hashed first, or seed + epoch would meet
    for counter in (epoch, sample):
        keys = splitmix64(keys + counter)
    of_views = splitmix64(splitmix64(keys)[:, None] + patch)
    return lowest(rearrange(of_views, "b (v n) -> (b v) n", v=views), visible_count(n, ratio))


def splitmix64(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """Hash each 64-bit integer by SplitMix64 (Steele, Lea and Flood 2014)."""
    # int64 wraps as uint64 does; after each >>, the copies of the sign are masked out
    x = (x + 1) * -0x61C8864680B583EB  # the golden-ratio increment 0x9E3779B97F4A7C15, signed
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * factor
    return x ^ (x >> 31 & (1 << 33) - 1)


def lowest(keys: Tensor, count: int) -> Bool[Tensor, "b n"]:
    """Mark the `count` lowest keys of each row by True; of equal keys, the first ones."""
    order = keys.argsort(dim=1, stable=True)
    return torch.zeros_like(keys, dtype=torch.bool).scatter_(1, order[:, :count], value=True)


def indices(chosen: Bool[Tensor, "b n"], count: int | None = None) -> Int[Tensor, "b k"]:
    """List the raster indices of the True patches of each image.

    Args:
        chosen: marks the patches, the same number k of them in every row.
        count: the number k, if the caller knows it; reading it from a tensor on a GPU makes the
            host wait for the device.

    Raises:
        ValueError: a row does not have `count` True. For the same reason this is checked on the
            CPU only, and not in compiled code.
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


def grid_of(
    images: Float[Tensor, "b c h w"], visible: Bool[Tensor, "b n"], p: int
) -> tuple[int, int]:
    """Count the rows and columns of patches, of side p, of images, and check `visible` by them.

    Raises:
        ValueError: patches do not tile the images, or `visible` is of other ones.
    """
    h, w = images.shape[2:]
    grid = patch_grid(h, w, p)
    if visible.shape != (len(images), grid[0] * grid[1]):
        raise ValueError(
            f"visible is {tuple(visible.shape)}, but {len(images)} images of {h}x{w} have"
            f" {grid[0]}x{grid[1]} patches of {p}: pass visible as"
            f" ({len(images)}, {grid[0] * grid[1]})"
        )
    return grid


def at(x: Float[Tensor, "b n d"], chosen: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    """Take the rows at the k indices of each image; for what needs a gradient, see `take`."""
    return x.gather(1, chosen[..., None].expand(-1, -1, x.shape[2]))


class Take(torch.autograd.Function):
    """The rows of the chosen patches, as `take` gives them."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: Tensor, chosen: Tensor, count: int
    ) -> Tensor:
        ctx.save_for_backward(chosen)
        return at(x, indices(chosen, count))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (chosen,) = ctx.saved_tensors
        return Place.apply(grads[0], chosen), None, None


class Place(torch.autograd.Function):
    """Rows at the places of the chosen patches, as `place` puts them."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor, chosen: Tensor) -> Tensor:
        ctx.save_for_backward(chosen)
        ctx.count = rows.shape[1]  # type: ignore[attr-defined]
        if not ctx.count:  # type: ignore[attr-defined]
            return rows.new_zeros(
                *chosen.shape, rows.shape[2]
            )  # none is chosen, and none can be read
        return at(rows, slots(chosen).clamp(min=0)).masked_fill_(~chosen[..., None], 0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (chosen,) = ctx.saved_tensors
        return Take.apply(grads[0], chosen, ctx.count), None


def take(
    x: Float[Tensor, "b n d"], chosen: Bool[Tensor, "b n"], count: int
) -> Float[Tensor, "b k d"]:
    """Take the rows of the chosen patches of each image, in raster order; `place` is its adjoint.

    Values and gradients are read and never added up, so that they are the same in every run: the
    gradient of `torch.gather` is a sum by atomics on a GPU.

    Args:
        x: a row for each patch.
        chosen: marks the patches, the same number of them in every row.
        count: the number k of these.
    """
    return Take.apply(x, chosen, count)


def place(rows: Float[Tensor, "b k d"], chosen: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
    """Put rows at the places of the chosen patches, in raster order, and zero at the others.

    Args:
        rows: a row for each of the k chosen patches.
        chosen: marks the patches, k of them in every row.
    """
    return Place.apply(rows, chosen)


def among(
    token: Float[Tensor, " d"], rows: Float[Tensor, "b k d"], chosen: Bool[Tensor, "b n"]
) -> Float[Tensor, "b n d"]:
    """Put rows at the places of the k chosen patches of each image, and the token at the others."""
    return place(rows, chosen).where(chosen[..., None], token.to(rows.dtype))


def slots(chosen: Bool[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """Number the chosen patches of each image in raster order from 0; the others have -1."""
    return (chosen.cumsum(1) - 1).masked_fill_(~chosen, -1)


def patchify(images: Float[Tensor, "b c h w"], p: int) -> Float[Tensor, "b n p p c"]:
    """Cut images into patches in raster order, each `[p, p, c]`; `unpatchify` is the inverse."""
    # in two steps: a CPU takes three times as long in one
    images = images.contiguous(memory_format=torch.channels_last)
    return rearrange(images, "b c (gh p) (gw q) -> b (gh gw) p q c", p=p, q=p)


def sites_of(
    maps: Float[Tensor, "b d h w"], chosen: Bool[Tensor, "b n"], count: int, s: int
) -> Float[Tensor, "b k s s d"]:
    """Take the chosen patches, of s x s sites each, out of maps; `on_grid` puts them back.

    Args:
        maps: all sites.
        chosen: marks the patches, the same number of them in every row.
        count: the number k of these.
        s: side of a patch in sites.
    """
    patches = rearrange(maps, "b d (gh s) (gw t) -> b (gh gw) (s t d)", s=s, t=s)
    return rearrange(take(patches, chosen, count), "b k (s t d) -> b k s t d", s=s, t=s)


def on_grid(
    token: Float[Tensor, " d"],
    sites: Float[Tensor, "b k s s d"],
    chosen: Bool[Tensor, "b n"],
    grid: tuple[int, int],
) -> Float[Tensor, "b d h w"]:
    """Put the sites of the k chosen patches of each image on maps, and the token elsewhere.

    Args:
        token: what stands at the sites of other patches.
        sites: those of the chosen patches, in raster order.
        chosen: marks the patches, k of them in every row.
        grid: rows and columns of patches.
    """
    s = sites.shape[2]
    patches = among(token.repeat(s * s), sites.flatten(2), chosen)
    return unpatchify(rearrange(patches, "b n (s t d) -> b n s t d", s=s, t=s), grid)


def unpatchify(
    patches: Float[Tensor, "b n p p c"], grid: tuple[int, int]
) -> Float[Tensor, "b c h w"]:
    """Put patches together again to images; `grid` is the number of rows and of columns."""
    gh, gw = grid
    return rearrange(patches, "b (gh gw) p q c -> b c (gh p) (gw q)", gh=gh, gw=gw)
