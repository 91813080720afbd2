"""timm's ConvNeXt in training at the speed of pretraining: on a CPU its blocks run our loops.

On whole images every patch is visible, so that the operators of `fcmae.sparse` are the dense ones.
A library takes most of a step for the gradients of the depthwise convolutions, and five passes over
the widest activation for GRN. Names, weights and shapes stay timm's. Without gradients, on a GPU,
and where a graph is recorded, so do the operations.
"""

from math import gcd

import torch
from einops import rearrange
from jaxtyping import Float
from timm.layers.mlp import GlobalResponseNormMlp
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from fcmae.sparse.gathered import COMPILED, Gathered
from fcmae.sparse.grn_mlp import fused

LONGEST = 8  # side of a patch in sites: the loops hold a row of it in registers


class Depthwise(nn.Conv2d):
    """A depthwise convolution of an odd size, with a bias, that keeps the size of its maps."""

    def forward(self, input: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        if not learns_on_cpu(input):
            return super().forward(input)
        h, w = input.shape[2:]
        side = next(s for s in range(LONGEST, 0, -1) if gcd(h, w) % s == 0)
        grid = (h // side, w // side)
        patches = grid[0] * grid[1]
        all_visible = torch.ones(len(input), patches, dtype=torch.bool)
        x = rearrange(input, "b d (i s) (j t) -> b (i j) s t d", s=side, t=side)
        x = Gathered(all_visible, grid, patches).depthwise(x, self)
        return rearrange(x, "b (i j) s t d -> b d (i s) (j t)", i=grid[0])


class GrnMlp(GlobalResponseNormMlp):
    """The MLP of a V2 block, whose linear layers may be 1 x 1 convolutions."""

    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        if not learns_on_cpu(x):
            return super().forward(x)
        if self.grn.channel_dim == -1:
            return fused(x.flatten(1, 2), self, compiled=True).view(x.shape)
        h = x.shape[2]
        x = fused(rearrange(x, "b d h w -> b (h w) d"), self, compiled=True)
        return rearrange(x, "b (h w) d -> b d h w", h=h)


def learns_on_cpu(x: Tensor) -> bool:
    """Whether gradients are asked for on a CPU, and no graph is recorded."""
    recorded = torch.compiler.is_compiling()
    return x.device.type == "cpu" and torch.is_grad_enabled() and not recorded


def quicken(model: nn.Module) -> None:
    """Let the blocks of any ConvNeXt of timm in a model run the loops where it learns on a CPU.

    Their modules get another `forward`, and no other weights or names. Without Numba nothing is
    done.
    """
    blocks = (module for module in model.modules() if isinstance(module, ConvNeXtBlock))
    for block in blocks if COMPILED else ():
        conv, mlp = block.conv_dw, block.mlp
        if type(conv) is nn.Conv2d and keeps_size(conv) and conv.bias is not None:
            conv.__class__ = Depthwise
        if type(mlp) is GlobalResponseNormMlp:
            mlp.__class__ = GrnMlp


def keeps_size(conv: nn.Conv2d) -> bool:
    """Whether maps are as large behind a convolution as before it, and the taps are neighbours."""
    return conv.kernel_size[0] % 2 == 1 and conv.stride == conv.dilation == (1, 1)
