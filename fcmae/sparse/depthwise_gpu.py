"""The submanifold depthwise convolution in Triton, on visible sites alone, for GPUs.

    y[q] = bias + sum over taps t of weight[t] x[q + t]     x is zero at hidden sites
    dL/dweight[t] = sum over visible sites q of dL/dy[q] x[q + t]

A table tells where the patches of the grid lie in the gathered layout, so that nothing is
scattered. Sums are in float32 or better, in an order that is always the same, without atomics.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from fcmae.sparse.depthwise_triton import convolve, correlate

PROGRAMS = 2048  # of the weight's gradient, about: some for each multiprocessor of a large GPU

# A program has these, in so many warps: measured on an H200 at the sizes of atto and tiny, by the
# side of a patch in sites.
CHANNELS = 32
WARPS = 4
PATCHES = {8: 2, 4: 4, 2: 16, 1: 32}
PATCHES_OF_GRADIENT = {8: 2, 4: 4, 2: 8, 1: 32}


@torch.library.custom_op(  # torch.compile sees one operator
    "fcmae::depthwise_gpu",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, Tensor visible, Tensor slots, int gw)"
    " -> Tensor",
)
def depthwise(
    x: Float[Tensor, "b v s s d"],
    weight: Float[Tensor, "d 1 k k"],
    bias: Float[Tensor, " d"] | None,
    visible: Int[Tensor, "b v"],
    slots: Int[Tensor, "b n"],
    gw: int,
) -> Float[Tensor, "b v s s d"]:
    """Convolve the visible sites depthwise, on a grid of patches.

    Args:
        x: the visible sites, s x s in each patch: 1, 2, 4 or 8.
        weight: one k x k kernel for each channel; k is odd.
        bias: one value for each channel; with None, the kernel is turned by half a turn, as in the
            gradient for x.
        visible: raster indices of the visible patches of each image.
        slots: for each patch of the grid its number among the visible ones; -1 if it is hidden.
        gw: columns of patches.
    """
    x = x.contiguous()
    b, v, s, _, d = x.shape
    k = weight.shape[-1]
    p = PATCHES[s]
    out = torch.empty_like(x)
    taps = taps_of(weight)
    with torch.cuda.device_of(x):
        convolve[triton.cdiv(b * v, p), triton.cdiv(d, CHANNELS)](
            x,
            taps,
            taps if bias is None else bias,
            out,
            visible.contiguous(),
            slots.contiguous(),
            b * v,
            v,
            slots.shape[1] // gw,
            gw,
            D=d,
            S=s,
            K=k,
            FLIPPED=bias is None,
            SUM=tl.float64 if x.dtype == torch.float64 else tl.float32,
            P=p,
            C=CHANNELS,
            num_warps=WARPS,
        )
    return out


@torch.library.custom_op(
    "fcmae::depthwise_gpu_gradients",
    mutates_args=(),
    schema="(Tensor x, Tensor grad, Tensor visible, Tensor slots, int gw, int k)"
    " -> (Tensor, Tensor)",
)
def gradients(
    x: Float[Tensor, "b v s s d"],
    grad: Float[Tensor, "b v s s d"],
    visible: Int[Tensor, "b v"],
    slots: Int[Tensor, "b n"],
    gw: int,
    k: int,
) -> tuple[Float[Tensor, "d 1 k k"], Float[Tensor, " d"]]:
    """Compute the gradients for weight and bias of `depthwise` from that for its output.

    They are in float32 or better.

    Args:
        x: see `depthwise`.
        grad: the gradient for its output.
        visible: see `depthwise`.
        slots: see `depthwise`.
        gw: see `depthwise`.
        k: side of the kernel.
    """
    x, grad = x.contiguous(), grad.contiguous()
    b, v, s, _, d = x.shape
    p = PATCHES_OF_GRADIENT[s]
    blocks = triton.cdiv(b * v, p)
    width = triton.cdiv(d, CHANNELS)
    turns = triton.cdiv(blocks, max(1, PROGRAMS // (width * k)))
    chunks = triton.cdiv(blocks, turns)
    partial = x.new_empty(chunks, k * k + 1, d, dtype=sums_of(x))
    with torch.cuda.device_of(x):
        correlate[chunks, width, k](
            x,
            grad,
            partial,
            visible.contiguous(),
            slots.contiguous(),
            b * v,
            v,
            slots.shape[1] // gw,
            gw,
            turns,
            D=d,
            S=s,
            K=k,
            SUM=tl.float64 if x.dtype == torch.float64 else tl.float32,
            P=p,
            C=CHANNELS,
            num_warps=WARPS,
        )
    sums = partial.sum(0)
    return sums[:-1].T.contiguous().view(d, 1, k, k), sums[-1].clone()


@depthwise.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, visible: Tensor, slots: Tensor, gw: int
) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@gradients.register_fake
def _(
    x: Tensor, grad: Tensor, visible: Tensor, slots: Tensor, gw: int, k: int
) -> tuple[Tensor, Tensor]:
    d = x.shape[-1]
    return x.new_empty(d, 1, k, k, dtype=sums_of(x)), x.new_empty(d, dtype=sums_of(x))


def sums_of(x: Tensor) -> torch.dtype:
    """The type in which numbers of x are summed up."""
    return torch.promote_types(x.dtype, torch.float32)


def taps_of(weight: Float[Tensor, "d 1 k k"]) -> Float[Tensor, "kk d"]:
    """The taps of all channels, one row each."""
    return weight.flatten(1).T.contiguous()


class Depthwise(torch.autograd.Function):
    """The submanifold depthwise convolution by these kernels.

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
        slots: Tensor,
        gw: int,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, visible, slots)
        ctx.gw = gw  # type: ignore[attr-defined]
        return torch.ops.fcmae.depthwise_gpu(x, weight, bias, visible, slots, gw)

    @staticmethod
    def backward(ctx, *grads: Tensor):  # type: ignore[override]
        x, weight, *where = ctx.saved_tensors
        grad_x = torch.ops.fcmae.depthwise_gpu(grads[0], weight, None, *where, ctx.gw)
        grad_weight, grad_bias = torch.ops.fcmae.depthwise_gpu_gradients(
            x, grads[0], *where, ctx.gw, weight.shape[-1]
        )
        return grad_x, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None, None, None


def try_out(device: torch.device) -> None:
    """Run a kernel, which needs a compiler for C, and a folder for compiled code.

    Args:
        device: a GPU.

    Raises:
        Exception: whatever Triton, the compiler or the driver has to complain of.
    """
    x = torch.zeros(1, 1, 1, 1, 1, device=device)
    place = torch.zeros(1, 1, dtype=torch.int32, device=device)
    torch.ops.fcmae.depthwise_gpu(x, torch.zeros(1, 1, 1, 1, device=device), None, place, place, 1)
