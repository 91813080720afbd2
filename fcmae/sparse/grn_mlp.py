"""The pointwise half of a block with global response normalisation, ConvNeXt V2 eq. 1-3.

    a = gelu(W1 x + b1)
    n_c = sqrt(sum over the image's visible sites of a_c^2)                 eq. 1
    r_c = n_c / (mean over channels of n + eps)                             eq. 2
    z_c = gamma_c (a_c r_c) + beta_c + a_c = f_c a_c + beta_c               eq. 3, f = 1 + gamma r
    y = W2 z + b2

`plain` computes it by autograd on any layout; `fused` on rows of visible sites, faster.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

try:
    from fcmae.sparse import grn_mlp_cpu
except ImportError:  # no Numba for this platform: the same to bfloat16's rounding, slower
    grn_mlp_cpu = None

EPS = 1e-6
ROWS = 4096  # sites at a time: their activations stay in cache and the products are large enough


class GlobalResponseNorm(nn.Module):
    """The weight (gamma) and the bias (beta) of GRN, eq. 3, of `dim` channels; zero at first."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(dim))


class Layers(nn.Module):
    """The layers of the MLP: fc1 (W1, b1), grn (gamma, beta) and fc2 (W2, b2).

    Args:
        dim: number d of channels; there are 4d between fc1 and fc2.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.grn = GlobalResponseNorm(4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)


def plain(
    x: Float[Tensor, "b *s d"], mlp: Layers, spatial_norm: Callable[[Tensor], Tensor]
) -> Float[Tensor, "b *s d"]:
    """Compute the MLP with GRN in any layout, by plain operations.

    Args:
        x: the sites, visible or not.
        mlp: the layers.
        spatial_norm: eq. 1, the norm of each channel over an image's visible sites, in float32 or
            better.
    """
    return mlp.fc2(expanded(x, mlp, spatial_norm))


def expanded(
    x: Float[Tensor, "b *s d"], mlp: Layers, spatial_norm: Callable[[Tensor], Tensor]
) -> Float[Tensor, "b *s e"]:
    """Compute z of eq. 3, the input of the second linear layer; see `plain` for the arguments."""
    a = F.gelu(mlp.fc1(x))
    norm = spatial_norm(a)
    factor = 1 + mlp.grn.weight * norm / (norm.mean(-1, keepdim=True) + EPS)
    return torch.addcmul(mlp.grn.bias.to(a.dtype), a, factor.to(a.dtype))


def fused(x: Float[Tensor, "b r d"], mlp: nn.Module, *, compiled: bool) -> Float[Tensor, "b r d"]:
    """Compute the MLP with GRN on the r visible sites of each image, with its own backward pass.

    On a CPU it takes a few images at a time, so that the passes over the wide activation find it in
    the cache. Only W1 x + b1 is kept for backward. Products are in autocast's dtype, statistics and
    sums over the batch in float32 or better.

    Args:
        x: the visible sites of each image.
        mlp: a module with the layers of `Layers`; the linear ones may be 1 x 1 convolutions, which
            are the same products.
        compiled: whether loops compiled by Numba may run, as they do in bfloat16 on a CPU.
    """
    dtype = x.dtype
    if torch.is_autocast_enabled(x.device.type):  # an autograd.Function is not autocast for us
        dtype = torch.get_autocast_dtype(x.device.type)
    layers: Any = mlp
    fc1, grn, fc2 = layers.fc1, layers.grn, layers.fc2
    first = (fc1.weight.flatten(1), fc1.bias)
    second = (fc2.weight.flatten(1), fc2.bias)
    return FusedGrnMlp.apply(x.to(dtype), *first, grn.weight, grn.bias, *second, compiled)


def chunks(x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split x, [b, r, ...], and other tensors by images: about `ROWS` rows each on a CPU."""
    images = max(1, -(-ROWS // x.shape[1])) if x.device.type == "cpu" else len(x)
    return zip(*(tensor.split(images) for tensor in (x, *others)), strict=True)


class FusedGrnMlp(torch.autograd.Function):
    """The MLP with GRN and its gradients, as `fused` calls it.

    With D = dL/dz = dL/dy W2, and sums over the rows of an image:

        dL/df = sum D a,  dL/dr = gamma dL/df
        dL/dn = (dL/dr - mean(r dL/dr)) / (mean n + eps)
        dL/da = f D + a (dL/dn) / n
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        w1: Tensor,
        b1: Tensor,
        gamma: Tensor,
        beta: Tensor,
        w2: Tensor,
        b2: Tensor,
        compiled: bool,
    ) -> Tensor:
        v1, c1, v2, c2, shift = (t.to(x.dtype) for t in (w1, b1, w2, b2, beta))
        ys: list[Tensor] = []
        hidden: list[Tensor] = []
        norms: list[Tensor] = []
        for (rows,) in chunks(x):
            h = F.linear(rows, v1, c1)
            a = F.gelu(h)
            norm = square(a).sum(1, keepdim=True).sqrt()
            factor = 1 + gamma * norm / (norm.mean(-1, keepdim=True) + EPS)
            z = torch.addcmul(shift, a, factor.to(a.dtype))
            ys.append(F.linear(z, v2, c2))
            hidden.append(h)
            norms.append(norm)
        ctx.compiled = compiled  # type: ignore[attr-defined]
        ctx.save_for_backward(x, w1, gamma, beta, w2, torch.cat(norms), *hidden)
        return torch.cat(ys)

    @staticmethod
    def backward(ctx, *grads: Tensor):  # type: ignore[override]
        x, w1, gamma, beta, w2, norm, *hidden = ctx.saved_tensors
        dy = grads[0]
        v1, v2 = (t.to(x.dtype) for t in (w1, w2))
        mean = norm.mean(-1, keepdim=True) + EPS
        response = norm / mean
        factor = 1 + gamma * response
        dw1, db1, dw2 = (torch.zeros_like(tensor) for tensor in (w1, beta, w2))
        dxs: list[Tensor] = []
        dfs: list[Tensor] = []
        z_and_df, dh_and_db = passes(x, compiled=ctx.compiled)
        parts = chunks(x, dy, norm, mean, response, factor)
        for h, (rows, dy_, norm_, mean_, response_, factor_) in zip(hidden, parts, strict=True):
            a = F.gelu(h)
            dz = dy_ @ v2
            z, df = z_and_df(a, dz, factor_, beta)
            add_product(dw2, flat(dy_).T, flat(z))
            dr = gamma * df
            dn = (dr - (dr * response_).mean(-1, keepdim=True)) / mean_
            slope = torch.where(norm_ > 0, dn / norm_, 0)
            dh, db = dh_and_db(h, a, dz, factor_, slope)
            add_product(dw1, flat(dh).T, flat(rows))
            db1 += db
            dxs.append(dh @ v1)
            dfs.append(df)
        dgamma = (torch.cat(dfs) * response).sum((0, 1))
        db2 = dy.sum((0, 1), dtype=norm.dtype)
        return torch.cat(dxs), dw1, db1, dgamma, db2 @ w2, dw2, db2, None


def passes(x: Tensor, *, compiled: bool) -> tuple[Callable[..., tuple[Tensor, Tensor]], ...]:
    """Choose `z_and_df` and `dh_and_db` for x: compiled loops in bfloat16 on a CPU, or PyTorch."""
    suits = x.dtype == torch.bfloat16 and x.device.type == "cpu"
    if grn_mlp_cpu is None or not (compiled and suits):
        return z_and_df, dh_and_db
    if torch.compiler.is_compiling():  # a graph cannot hold them
        return z_and_df, dh_and_db
    return grn_mlp_cpu.z_and_df, grn_mlp_cpu.dh_and_db


def z_and_df(
    a: Float[Tensor, "b r e"],
    dz: Float[Tensor, "b r e"],
    factor: Float[Tensor, "b 1 e"],
    beta: Float[Tensor, " e"],
) -> tuple[Float[Tensor, "b r e"], Float[Tensor, "b 1 e"]]:
    """Compute z and dL/df, the first element-wise part of the backward pass.

    Args:
        a: gelu(h).
        dz: dL/dz.
        factor: f of eq. 3.
        beta: the bias of GRN.
    """
    z = torch.addcmul(beta.to(a.dtype), a, factor.to(a.dtype))
    return z, (dz * a).sum(1, keepdim=True, dtype=factor.dtype)


def dh_and_db(
    h: Float[Tensor, "b r e"],
    a: Float[Tensor, "b r e"],
    dz: Float[Tensor, "b r e"],
    factor: Float[Tensor, "b 1 e"],
    slope: Float[Tensor, "b 1 e"],
) -> tuple[Float[Tensor, "b r e"], Float[Tensor, " e"]]:
    """Compute dL/dh and dL/db1, the second element-wise part of the backward pass.

    Args:
        h: W1 x + b1.
        a: gelu(h).
        dz: dL/dz, which is overwritten.
        factor: f of eq. 3.
        slope: (dL/dn) / n.
    """
    da = dz.mul_(factor.to(a.dtype)).addcmul_(a, slope.to(a.dtype))
    dh = torch.ops.aten.gelu_backward(da, h)
    return dh, dh.sum((0, 1), dtype=factor.dtype)


def add_product(total: Float[Tensor, "m n"], a: Tensor, b: Tensor) -> None:
    """Add the matrix product a b to `total`, which is in float32 where a and b may be in half."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total.add_(a @ b)


def square(a: Tensor) -> Tensor:
    """Square a in float32 or better, because half precision would overflow or round."""
    return a.square() if a.dtype.itemsize >= 4 else a.float().square_()


def flat(x: Float[Tensor, "b r d"]) -> Float[Tensor, "br d"]:
    """Flatten the images and the rows of a chunk into one axis."""
    return x.flatten(0, 1)
