"""The gathered layout: visible patches only, `[b, v, s, s, d]`, channels last.

Pointwise layers and downsampling are dense operations on b v s s rows, and no hidden pixel is ever
read. Only the depthwise convolution needs neighbours. On CPUs it is compiled loops over visible
sites, on GPUs kernels of the same kind; elsewhere the sites are scattered to the dense grid,
convolved, and gathered again.
"""

from functools import cache
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from fcmae.masking import indices, patchify, slots
from fcmae.run.terminal import cause_of, say
from fcmae.sparse.grn_mlp import Layers, fused

try:
    from fcmae.sparse import depthwise_cpu
except ImportError:  # no Numba for this platform: the same numbers, slower
    depthwise_cpu = None

COMPILED = depthwise_cpu is not None


class Gathered:
    """The operations of `fcmae.sparse.Sparse` on the visible patches alone.

    Args:
        visible: True where the encoder sees the patch, the same number of True in every row.
        grid: rows and columns of patches.
        count: the number of visible patches of an image, if the caller knows it.
        compiled: whether this project's loops run, those of Numba on a CPU and those of Triton on a
            GPU, where they are installed.
    """

    def __init__(
        self,
        visible: Bool[Tensor, "b n"],
        grid: tuple[int, int],
        count: int | None = None,
        *,
        compiled: bool = True,
    ) -> None:
        self.chosen = visible
        self.visible = indices(visible, count)
        self.grid = grid
        self.compiled = compiled
        self.kernels = kernels_on(visible.device) if compiled else None
        self.slots = slots(visible).int() if self.kernels else None
        self.runs: dict[int, Runs] = {}

    def stem(self, images: Float[Tensor, "b c h w"], conv: nn.Conv2d) -> Float[Tensor, "b v s s d"]:
        patch = images.shape[2] // self.grid[0]
        image = torch.arange(len(images), device=images.device)[:, None]
        return within_patch(patchify(images, patch)[image, self.visible], conv)

    def downsample(
        self, x: Float[Tensor, "b v s s d"], conv: nn.Conv2d
    ) -> Float[Tensor, "b v t t e"]:
        return within_patch(x, conv)

    def depthwise(
        self, x: Float[Tensor, "b v s s d"], conv: nn.Conv2d
    ) -> Float[Tensor, "b v s s d"]:
        weight = conv.weight
        bias = conv.bias
        assert bias is not None
        dtype = x.dtype
        if torch.is_autocast_enabled(x.device.type):  # an autograd.Function is not autocast for us
            dtype = torch.get_autocast_dtype(x.device.type)
        if self.kernels is not None:  # which take the weight in float32
            where = (self.visible, self.slots, self.grid[1])
            return self.kernels.apply(x.to(dtype), weight, bias, *where)
        if self.compiled and depthwise_cpu and x.device.type == "cpu":  # in float32 always
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            return TapLoops.apply(x, weight, bias, self.visible, self.grid)
        tensors = (tensor.to(dtype) for tensor in (x, weight, bias))
        return ScatterConvolve.apply(*tensors, *self.runs_of(x.shape[2]), self.grid)

    def grn_mlp(self, x: Float[Tensor, "b v s s d"], mlp: Layers) -> Float[Tensor, "b v s s d"]:
        return fused(x.flatten(1, 3), mlp, compiled=self.compiled).view(x.shape)

    def sites(self, x: Float[Tensor, "b v s s d"]) -> Float[Tensor, "b v s s d"]:
        return x

    def runs_of(self, side: int) -> "Runs":
        """Where each row of `side` sites lies; computed once per stage and batch."""
        if torch.compiler.is_compiling():  # a compiled block fuses it, and cannot fill a dictionary
            return runs_of(self.chosen, self.visible, self.grid, side)
        if side not in self.runs:
            self.runs[side] = runs_of(self.chosen, self.visible, self.grid, side)
        return self.runs[side]


@cache
def kernels_on(device: torch.device) -> type[torch.autograd.Function] | None:
    """The convolution by this project's kernels, where they run; on a GPU a line says if they fail.

    Args:
        device: of the images.
    """
    if device.type != "cuda":
        return None
    try:
        from fcmae.sparse import depthwise_gpu  # here: it imports Triton

        depthwise_gpu.try_out(device)
    except Exception as error:  # no Triton, or no compiler for C: the same numbers, slower
        say(
            f"the depthwise convolution runs on whole grids, and slower ({cause_of(error)})",
            error=True,
        )
        return None
    return depthwise_gpu.Depthwise


class Runs(NamedTuple):
    """Rows of `side` sites of patches, in the gathered layout and in the dense grid.

    The grid's sites are `[b, gh, side, gw, side]`, so its rows are numbered in the order of
    (image, patch row, row inside the patch, patch column); those of the gathered layout,
    `[b, v, side, side]`, in that of (image, visible patch, row inside the patch).
    """

    places: Int[Tensor, " r"]
    """Where each gathered row lies in the grid."""
    sources: Int[Tensor, " m"]
    """Where each row of the grid lies in the gathered layout; -1 in hidden patches."""


def runs_of(
    chosen: Bool[Tensor, "b n"], visible: Int[Tensor, "b v"], grid: tuple[int, int], side: int
) -> Runs:
    """List where each row of `side` sites lies, in both directions.

    Args:
        chosen: True where a patch is visible.
        visible: the raster indices of these.
        grid: rows and columns of patches.
        side: of a patch, in sites.
    """
    gh, gw = grid
    b, v = visible.shape
    image = torch.arange(b, device=visible.device)[:, None]
    inside = torch.arange(side, device=visible.device)
    top = (image * gh + visible // gw) * side
    places = (top[..., None] + inside) * gw + (visible % gw)[..., None]
    slot = rearrange(slots(chosen), "b (gh gw) -> b gh 1 gw", gh=gh)
    rows = (image[..., None, None] * v + slot) * side + inside[:, None]
    return Runs(places.flatten(), rows.masked_fill_(slot < 0, -1).flatten())


def within_patch(x: Float[Tensor, "b v s s c"], conv: nn.Conv2d) -> Float[Tensor, "b v t t d"]:
    """Convolve each patch with a kernel as large as its stride, which is a matrix product.

    Under autocast the product is in half precision and the result in float32, because the residual
    stream of a stage begins with it.
    """
    k = conv.kernel_size[0]
    x = rearrange(x, "b v (s i) (t j) c -> b v s t (i j c)", i=k, j=k)
    weight = conv.weight.flatten(1)
    if k > 1:  # at 1 it is the same, with strides of the gradient that distributed training copies
        weight = rearrange(conv.weight, "d c i j -> d (i j c)")
    x = F.linear(x, weight, conv.bias)
    return x.to(torch.promote_types(x.dtype, torch.float32))


def scatter(
    x: Float[Tensor, "b v s s d"], runs: Runs, grid: tuple[int, int]
) -> Float[Tensor, "b d h w"]:
    """Put visible sites on the dense grid, in channels_last memory, with zero at hidden sites.

    The grid reads its rows, and none is written to, which a GPU does in a sorted order if it has to
    do the same in every run.

    Args:
        x: the visible sites.
        runs: where each row of sites lies, as `runs_of` lists it.
        grid: rows and columns of patches.
    """
    b, _, s, _, d = x.shape
    gh, gw = grid
    rows = x.reshape(-1, s * d).index_select(0, runs.sources.clamp(min=0))
    rows = rows.masked_fill_(runs.sources[:, None] < 0, 0)
    return rows.view(b, gh * s, gw * s, d).permute(0, 3, 1, 2)


def gather(dense: Float[Tensor, "b d h w"], runs: Runs, shape: torch.Size) -> Tensor:
    """Take the visible sites of the dense grid: the inverse of `scatter`.

    Args:
        dense: the grid, in channels_last memory.
        runs: where each row of sites lies, as `runs_of` lists it.
        shape: shape of the result, [b, v, s, s, d].
    """
    s, d = shape[-2:]
    rows = dense.permute(0, 2, 3, 1).reshape(-1, s * d)  # no copy: channels_last memory
    return rows.index_select(0, runs.places).view(shape)


class TapLoops(torch.autograd.Function):
    """The submanifold depthwise convolution by the loops of `fcmae.sparse.depthwise_cpu`.

    It maps visible sites to visible sites, so its gradient for x is the same operation with the
    kernel flipped.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        visible: Tensor,
        grid: tuple[int, int],
    ) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight, visible)
        ctx.grid = grid  # type: ignore[attr-defined]
        return torch.ops.fcmae.depthwise(x, weight, bias, visible, *grid)

    @staticmethod
    def backward(ctx, *grads: Tensor):  # type: ignore[override]
        x, weight, visible = ctx.saved_tensors
        grad = grads[0].contiguous()
        flipped = weight.flip(2, 3)
        zero = torch.zeros_like(weight[:, 0, 0, 0])
        grad_x = torch.ops.fcmae.depthwise(grad, flipped, zero, visible, *ctx.grid)
        grad_weight = torch.ops.fcmae.depthwise_weight_gradient(
            x, grad, visible, *ctx.grid, weight.shape[-1]
        )
        return grad_x, grad_weight, grad.sum((0, 1, 2, 3)), None, None


class ScatterConvolve(torch.autograd.Function):
    """The submanifold depthwise convolution as gather(conv(scatter(x))), for any device.

    Only the gathered x is kept for backward; at ratio 0.6 it is 2.58 times smaller than the grid.
    The gradient for x is a forward convolution, which oneDNN runs faster than a backward one.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        places: Tensor,
        sources: Tensor,
        grid: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight, places, sources)
        ctx.grid = grid  # type: ignore[attr-defined]
        runs = Runs(places, sources)
        dense = F.conv2d(scatter(x, runs, grid), weight, bias, padding="same", groups=len(weight))
        return gather(dense, runs, x.shape)

    @staticmethod
    def backward(ctx, *grads: Tensor):  # type: ignore[override]
        (grad,) = grads
        x, weight, *kept = ctx.saved_tensors
        runs = Runs(*kept)
        dense_grad = scatter(grad, runs, ctx.grid)
        flipped = F.conv2d(dense_grad, weight.flip(2, 3), padding="same", groups=len(weight))
        grad_weight = conv2d_weight(
            scatter(x, runs, ctx.grid),
            weight.shape,
            dense_grad,
            padding=weight.shape[-1] // 2,
            groups=len(weight),
        )
        grad_weight = grad_weight.view(weight.shape)  # DistributedDataParallel compares strides
        grad_x = gather(flipped, runs, x.shape)
        return grad_x, grad_weight, grad.sum((0, 1, 2, 3)), None, None, None
