"""The operations on masked dense tensors, slow and plain: the others are tested against them.

Activations are `[b, gh*s, gw*s, d]`, the whole grid of sites. Hidden sites hold whatever the
pointwise layers make of them; each operation that mixes sites sets them to zero first.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fcmae.masking import indices, sites_of
from fcmae.sparse.grn_mlp import Layers, plain


class Reference:
    """The operations of `fcmae.sparse.Sparse` on the whole grid of sites.

    Args:
        visible: True where the encoder sees the patch, the same number of True in every row.
        grid: rows and columns of patches.
        count: the number of visible patches of an image, if the caller knows it.
    """

    def __init__(
        self, visible: Bool[Tensor, "b n"], grid: tuple[int, int], count: int | None = None
    ) -> None:
        self.visible = indices(visible, count)
        self.visible_patches = rearrange(visible, "b (gh gw) -> b gh gw 1", gh=grid[0])

    def visible_sites(self, x: Float[Tensor, "b h w d"]) -> Bool[Tensor, "b h w 1"]:
        """Mark the sites of visible patches by True, on the grid of sites of x."""
        side = x.shape[1] // self.visible_patches.shape[1]
        return self.visible_patches.repeat_interleave(side, dim=1).repeat_interleave(side, dim=2)

    def only_visible(self, x: Float[Tensor, "b h w d"]) -> Float[Tensor, "b h w d"]:
        """Set hidden sites to zero, where a product with zero would keep NaN."""
        return x.where(self.visible_sites(x), torch.zeros_like(x))

    def convolve(self, x: Float[Tensor, "b h w d"], conv: nn.Conv2d) -> Float[Tensor, "b _ _ e"]:
        x = rearrange(self.only_visible(x), "b h w d -> b d h w")
        return self.only_visible(rearrange(conv(x), "b e h w -> b h w e"))

    def stem(self, images: Float[Tensor, "b c h w"], conv: nn.Conv2d) -> Float[Tensor, "b _ _ d"]:
        return self.convolve(rearrange(images, "b c h w -> b h w c"), conv)

    downsample = convolve
    depthwise = convolve

    def spatial_norm(self, x: Float[Tensor, "b h w d"]) -> Float[Tensor, "b 1 1 d"]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        x = self.only_visible(x)
        return torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=dtype)

    def grn_mlp(self, x: Float[Tensor, "b h w d"], mlp: Layers) -> Float[Tensor, "b h w d"]:
        return plain(x, mlp, self.spatial_norm)

    def sites(self, x: Float[Tensor, "b h w d"]) -> Float[Tensor, "b v s s d"]:
        side = x.shape[1] // self.visible_patches.shape[1]
        visible = self.visible_patches.flatten(1)
        maps = rearrange(x, "b h w d -> b d h w")
        return sites_of(maps, visible, self.visible.shape[1], side)
