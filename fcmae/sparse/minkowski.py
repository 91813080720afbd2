"""The sparse operations by MinkowskiEngine 0.5.4 (Choy et al. 2019, arXiv 1904.08755), on the CPU.

It keeps coordinates in hash maps, and for each offset of a kernel the pairs of rows that it joins.
Activations are `[b, v, s, s, d]` as in the gathered layout; as rows they are the features of a
sparse tensor whose coordinates were inserted in that order.

Several threads fill the lists of pairs, in an order that differs from call to call. The gradients
of the kernels of the stem and of the downsampling are sums in this order, and differ in their last
bits: a training run repeats to the bit only with OMP_NUM_THREADS=1.
"""

import collections.abc
import warnings

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fcmae.masking import indices, patchify
from fcmae.sparse.grn_mlp import Layers, plain

# It imports Sequence from where Python 3.10 dropped it, and warns that it was built without CUDA.
collections.Sequence = collections.abc.Sequence  # type: ignore[attr-defined]
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "The MinkowskiEngine was compiled with CPU_ONLY", UserWarning)
    import MinkowskiEngine as ME  # type: ignore[import-not-found]
    from MinkowskiEngineBackend._C import ConvolutionMode  # type: ignore[import-not-found]

# Coordinates count 32nds of a patch: each side that a patch has in sites, from 32 pixels to one
# site, is then a whole tensor stride, and no operation needs to know the size of a pixel.
UNIT = 32

Pairs = list[tuple[int, Int[Tensor, " _"], Int[Tensor, " _"]]]


class Minkowski:
    """The operations of `fcmae.sparse.Sparse`, with one coordinate manager for each batch.

    Args:
        visible: True where the encoder sees the patch, the same number of True in every row.
        grid: rows and columns of patches.
        count: the number of visible patches of an image, if the caller knows it.

    Raises:
        ValueError: the batch is not on the CPU.
    """

    def __init__(
        self, visible: Bool[Tensor, "b n"], grid: tuple[int, int], count: int | None = None
    ) -> None:
        if visible.device.type != "cpu":
            raise ValueError(
                f"sparse='minkowski' runs on the CPU, not on {visible.device}: MinkowskiEngine"
                " does not build with current CUDA; use sparse='gathered'"
            )
        self.visible = indices(visible, count)
        self.grid = grid
        self.manager = ME.CoordinateManager(D=2, coordinate_map_type=ME.CoordinateMapType.CPU)
        self.keys: dict[int, ME.CoordinateMapKey] = {}
        self.pairs: dict[int, Pairs] = {}

    def stem(self, images: Float[Tensor, "b c h w"], conv: nn.Conv2d) -> Float[Tensor, "b v s s d"]:
        patch = images.shape[2] // self.grid[0]
        image = torch.arange(len(images))[:, None]
        return self.downsample(patchify(images, patch)[image, self.visible], conv)

    def downsample(
        self, x: Float[Tensor, "b v s s c"], conv: nn.Conv2d
    ) -> Float[Tensor, "b v t t d"]:
        b, v, side, _, c = x.shape
        k = conv.kernel_size[0]
        rows = x.to(conv.weight.dtype).reshape(-1, c)  # no half precision there: not under autocast
        if k == 1:  # a matrix product, as in its own module
            rows = rows @ conv.weight.flatten(1).T
        else:
            rows = ME.MinkowskiConvolutionFunction.apply(
                rows,
                rearrange(conv.weight, "d c i j -> (i j) c d").contiguous(),
                ME.KernelGenerator(kernel_size=k, stride=k, dimension=2),
                ConvolutionMode.DEFAULT,
                self.key(side),
                self.key(side // k),  # given: a strided map that it makes has an order of its own
                self.manager,
            )
        assert conv.bias is not None
        return (rows + conv.bias).view(b, v, side // k, side // k, -1)

    def depthwise(
        self, x: Float[Tensor, "b v s s d"], conv: nn.Conv2d
    ) -> Float[Tensor, "b v s s d"]:
        rows = x.to(conv.weight.dtype).reshape(-1, x.shape[-1])
        kernel = rearrange(conv.weight, "d 1 i j -> (i j) d").contiguous()
        pairs = self.pairs_of(x.shape[2], conv.kernel_size[0])
        return Channelwise.apply(rows, kernel, conv.bias, pairs).view(x.shape)

    def spatial_norm(self, x: Float[Tensor, "b v s s d"]) -> Float[Tensor, "b 1 1 1 d"]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        return torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True, dtype=dtype)

    def grn_mlp(self, x: Float[Tensor, "b v s s d"], mlp: Layers) -> Float[Tensor, "b v s s d"]:
        return plain(x, mlp, self.spatial_norm)

    def sites(self, x: Float[Tensor, "b v s s d"]) -> Float[Tensor, "b v s s d"]:
        return x

    def key(self, side: int) -> ME.CoordinateMapKey:
        """Return the coordinate map of all visible sites, `side` x `side` in a patch."""
        if side not in self.keys:
            stride = UNIT // side
            sites = torch.arange(side)
            patch = self.visible[..., None, None]
            row = (patch // self.grid[1] * side + sites[:, None]) * stride
            column = (patch % self.grid[1] * side + sites) * stride
            image = torch.arange(len(self.visible))[:, None, None, None]
            # Columns first: a kernel's offsets run fastest along the first axis.
            coordinates = torch.stack(torch.broadcast_tensors(image, column, row), dim=-1)
            key, (order, _) = self.manager.insert_and_map(
                coordinates.flatten(0, 3).int(), [stride, stride]
            )
            assert torch.equal(order, torch.arange(len(order)))  # rows are in the order given
            self.keys[side] = key
        return self.keys[side]

    def pairs_of(self, side: int, k: int) -> Pairs:
        """List the rows that each offset of a k x k kernel joins; made once a stage and batch.

        Returns:
            For each offset its number, the rows that it reads, and the rows that it adds to.
        """
        if side not in self.pairs:
            key = self.key(side)
            self.pairs[side] = []
            for offset, pair in self.manager.kernel_map(key, key, kernel_size=k).items():
                # In this order sums round alike, and memory is read in sequence.
                source, target = pair.long()[:, pair[1].argsort()]
                self.pairs[side].append((offset, source, target))
        return self.pairs[side]


class Channelwise(torch.autograd.Function):
    """The depthwise convolution: y[target] += x[source] * kernel[offset] over all pairs.

    MinkowskiEngine's own module, MinkowskiChannelwiseConvolution, copies the pairs at each call and
    leaves the backward pass to autograd. It took three to four times as long, forward and backward,
    in each stage of atto (8 images of 224 pixels, two cores). Within one offset no row repeats, so
    rows are added by reading and writing them, many at a time where `index_add_` would take one.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        kernel: Tensor,
        bias: Tensor,
        pairs: Pairs,
    ) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.pairs = pairs  # type: ignore[attr-defined]
        out = bias.repeat(len(x), 1)
        for offset, source, target in pairs:
            part = x.index_select(0, source).mul_(kernel[offset])
            out.index_copy_(0, target, part.add_(out.index_select(0, target)))
        return out

    @staticmethod
    def backward(ctx, *grads: Tensor):  # type: ignore[override]
        (grad,) = grads
        x, kernel = ctx.saved_tensors
        grad_x = torch.zeros_like(x)
        grad_kernel = torch.zeros_like(kernel)
        for offset, source, target in ctx.pairs:
            part = grad.index_select(0, target)
            grad_kernel[offset] = x.index_select(0, source).mul_(part).sum(0)
            part.mul_(kernel[offset]).add_(grad_x.index_select(0, source))
            grad_x.index_copy_(0, source, part)
        return grad_x, grad_kernel, grad.sum(0), None
