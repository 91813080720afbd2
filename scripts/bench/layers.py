"""The depthwise convolution by itself: ours, cuDNN's on the masked grid, and WarpConvNet's."""

from typing import Any

import torch
from torch import Tensor, nn

from fcmae.architecture import Architecture
from fcmae.sparse.gathered import Gathered, scatter
from scripts.bench.lab import Lab
from scripts.bench.steps import batch_of
from scripts.bench.timing import Work

STAGE = {8: 0, 4: 1, 2: 2, 1: 3}  # of the side of a patch, in sites


def backward(made: Tensor, gradient: Tensor) -> None:
    """Take the gradients of a layer's output."""
    made.backward(gradient)


def depthwise(lab: Lab, rival: str, side: int) -> tuple[Work, Work]:
    """Make the forward and backward pass of a rival's layer, and of ours, on the same sites.

    Args:
        lab: the device.
        rival: cudnn or warpconvnet.
        side: of a patch, in sites, which is that of a stage of tiny.

    Raises:
        ValueError: WarpConvNet is not installed.
    """
    d = Architecture(name=lab.name("tiny")).size.widths[STAGE[side]]
    n = (lab.side // 32) ** 2
    b = lab.batch("tiny")
    visible = batch_of(b, 32, n, 0.6)[1].to(lab.device)
    grid = (lab.side // 32, lab.side // 32)
    sparse = Gathered(visible, grid)
    generator = torch.Generator(lab.device).manual_seed(0)
    shape = (b, sparse.visible.shape[1], side, side, d)
    x = torch.randn(shape, generator=generator, device=lab.device, dtype=torch.bfloat16)
    x.requires_grad_()
    conv = nn.Conv2d(d, d, kernel_size=7, padding=3, groups=d, device=lab.device)
    ones = torch.ones_like(x)

    def ours() -> None:
        with lab.autocast():
            made = sparse.depthwise(x, conv)
        backward(made, ones.to(made.dtype))

    works = {"cudnn": cudnn, "warpconvnet": warpconvnet}
    return lab.synced(works[rival](lab, x.detach(), conv, sparse)), lab.synced(ours)


def cudnn(lab: Lab, x: Tensor, conv: nn.Conv2d, sparse: Gathered) -> Work:
    """Make PyTorch's convolution of the whole grid, where hidden sites are 0: cuDNN's on a GPU."""
    dense = scatter(x, sparse.runs_of(x.shape[2]), sparse.grid).detach().requires_grad_()
    ones = torch.ones_like(dense)

    def work() -> None:
        with lab.autocast():
            made = conv(dense)
        backward(made, ones)

    return work


def warpconvnet(lab: Lab, x: Tensor, conv: nn.Conv2d, sparse: Gathered) -> Work:
    """Make WarpConvNet's sparse depthwise convolution of the visible sites.

    Raises:
        ValueError: it is not installed.
    """
    try:
        from warpconvnet.geometry.types.voxels import Voxels  # type: ignore[import-not-found]
        from warpconvnet.nn.modules.sparse_conv_depth import (  # type: ignore[import-not-found]
            SparseDepthwiseConv2d,
        )
    except ImportError as error:
        raise ValueError(f"WarpConvNet is not installed ({error})") from error
    *_, s, _, d = x.shape
    layer: Any = SparseDepthwiseConv2d(d, kernel_size=7, bias=True).to(lab.device)
    columns = sparse.grid[1]
    site = torch.arange(s, device=lab.device)
    patch = sparse.visible[..., None, None]
    row = patch // columns * s + site[:, None]
    column = patch % columns * s + site
    coordinates = torch.stack(torch.broadcast_tensors(row, column), dim=-1).flatten(1, 3).int()
    voxels = Voxels(list(coordinates), list(x.flatten(1, 3)))  # keeps the map of neighbours
    rows = x.reshape(-1, d).detach().requires_grad_()
    ones = torch.ones_like(rows)

    def work() -> None:
        with lab.autocast():
            made = layer(voxels.replace(batched_features=rows)).feature_tensor
        backward(made, ones.to(made.dtype))

    return work
