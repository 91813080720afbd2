"""SparK's light decoder: a UNet on the features of all scales (Tian et al. 2023, section 3.2).

The features of visible patches on each scale (arXiv 2301.03580, equations 4 and 5; here E for a
norm, M a learned token, phi a convolution, B a block that doubles the resolution) are densified,

    S'_i = phi_i(E_i(S_i) at visible sites, M_i at hidden ones),

and added from the coarsest to the finest scale, until a site is a pixel:

    D_4 = S'_4,    D_i = B_i(D_{i+1}) + S'_i.

SparK's blocks have batch norm, synchronised over processes. Its statistics would still be those of
a micro-batch, so that `optim.accumulate` and the number of processes would change what is learned,
and densified features of ResNets would be normalised otherwise than those of ConvNeXts. Here norms
stay within an image: group norm (Wu and He 2018, arXiv 1803.08494, 16 channels a group) in the
blocks, which are dense, and LayerNorm on each visible site of the features. There are no running
statistics, and predictions are the same in training and evaluation.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fcmae.architecture import Scale
from fcmae.layers import EPS
from fcmae.masking import on_grid, patchify, take

GROUP = 16  # channels of a group of group norm


class Densify(nn.Module):
    """Features of visible patches on one scale as a map: norm, token at hidden sites, convolution.

    Args:
        scale: the resolution, and the number of channels of the features.
        dim: number of channels of the map.
    """

    def __init__(self, scale: Scale, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(scale.width, eps=EPS)
        self.token = nn.Parameter(torch.zeros(scale.width))
        kernel = 1 if scale.side == 1 else 3
        self.project = nn.Conv2d(scale.width, dim, kernel, padding="same")

    def forward(
        self, x: Float[Tensor, "b v s s d"], visible: Bool[Tensor, "b n"], grid: tuple[int, int]
    ) -> Float[Tensor, "b e h w"]:
        return self.project(on_grid(self.token, self.norm(x), visible, grid))


class Doubling(nn.Module):
    """A block of the UNet, which doubles the resolution: transposed convolution, two convolutions.

    Args:
        dim: number of channels of the input.
        dim_out: number of channels of the output.
    """

    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(dim, dim, kernel_size=4, stride=2, padding=1)
        self.convolve = nn.Sequential(
            nn.Conv2d(dim, dim, kernel_size=3, padding=1, bias=False),
            group_norm(dim),
            nn.ReLU6(inplace=True),  # group norm does not need what it gave
            nn.Conv2d(dim, dim_out, kernel_size=3, padding=1, bias=False),
            group_norm(dim_out),
        )

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b e 2*h 2*w"]:
        return self.convolve(self.up(x))


def group_norm(dim: int) -> nn.GroupNorm:
    """Make a group norm with groups of 16 channels, or with one where 16 does not divide them."""
    return nn.GroupNorm(1 if dim % GROUP else dim // GROUP, dim)


class UNet(nn.Module):
    """Predict hidden patches from the features of all scales, by a UNet that ends in pixels.

    Args:
        scales: the resolutions of the features, the finest one first; a patch is one site of the
            last.
        dim: width of the coarsest map, a multiple of the patch side; each block halves it. It is
            768 in the paper.
        patch_size: side p of a patch in pixels, a power of 2: there are log2(p) blocks.
        in_chans: number of channels of the images.
    """

    def __init__(
        self, *, scales: Sequence[Scale], dim: int, patch_size: int, in_chans: int
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.densify = nn.ModuleList(Densify(scale, dim // scale.side) for scale in scales)
        widths = [dim >> block for block in range(patch_size.bit_length())]
        self.blocks = nn.ModuleList(Doubling(*widths_) for widths_ in pairwise(widths))
        self.predict = nn.Conv2d(widths[-1], in_chans, kernel_size=1)

    def forward(
        self,
        scales: Sequence[Float[Tensor, "b v _ _ _"]],
        visible: Bool[Tensor, "b n"],
        grid: tuple[int, int],
    ) -> Float[Tensor, "b k ppc"]:
        """Predict the normalised pixels of the k = n - v hidden patches, in raster order.

        Args:
            scales: the encoder's features of the v visible patches, the finest scale first.
            visible: True where the encoder sees the patch.
            grid: rows and columns of patches.
        """
        maps = [
            densify(features, visible, grid)
            for densify, features in zip(self.densify, scales, strict=True)
        ]
        x = maps.pop()
        for block in self.blocks:
            x = block(x)
            if maps and maps[-1].shape[2:] == x.shape[2:]:
                x = x + maps.pop()
        patches = rearrange(patchify(self.predict(x), self.patch_size), "b n p q c -> b n (p q c)")
        return take(patches, ~visible, visible.shape[1] - scales[-1].shape[1])
