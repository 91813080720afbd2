"""ConvNeXt on the whole grid, hidden patches as zeros or mask tokens: the rival of sparsity.

ConvNeXt V2, section 3, compares its sparse encoder with one of usual convolutions, whose features
of visible patches mix with those of hidden ones, and whose GRN counts all sites.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fcmae.encoder import Encoder
from fcmae.masking import grid_of
from fcmae.patches import patch_grid
from fcmae.sparse.reference import Reference
from fcmae.visible_encoder import VisibleEncoder


class Unmasked(Reference):
    """The operations on the whole grid of sites, none of which is set to zero on the way."""

    def only_visible(self, x: Float[Tensor, "b h w d"]) -> Float[Tensor, "b h w d"]:
        return x


class DenseEncoder(VisibleEncoder):
    """ConvNeXt V2 or V1 on whole images, in which a value stands for what is hidden.

    The value stands behind the stem, which sees each patch alone, so that hidden pixels change no
    feature.

    Args:
        encoder: whose stem and stages it has.
        tokens: whether the value is learned, as SimMIM's (arXiv 2111.09886); otherwise it is zero.
    """

    def __init__(self, encoder: Encoder, *, tokens: bool) -> None:
        super().__init__()
        self.patch_size = encoder.patch_size
        self.dim = encoder.dim
        self.stem = encoder.stem
        self.stages = encoder.stages
        self.mask_token = None  # the converter drops a tensor of this name
        if tokens:
            conv, _ = encoder.stem
            assert isinstance(conv, nn.Conv2d)
            self.mask_token = nn.Parameter(torch.zeros(conv.out_channels))

    def forward(
        self,
        images: Float[Tensor, "b c h w"],
        visible: Bool[Tensor, "b n"],
        count: int | None = None,
    ) -> Float[Tensor, "b v d"]:
        """Compute the features of the visible patches in raster order, as `Encoder.forward`."""
        return self.scales(images, visible, count)[-1][:, :, 0, 0]

    def scales(
        self,
        images: Float[Tensor, "b c h w"],
        visible: Bool[Tensor, "b n"],
        count: int | None = None,
    ) -> list[Float[Tensor, "b v _ _ _"]]:
        """Compute what each of the four stages makes of the visible patches, in raster order.

        Args:
            images: see `Encoder.scales`.
            visible: see `Encoder.scales`.
            count: see `Encoder.scales`.

        Raises:
            ValueError: see `Encoder.scales`.
        """
        whole = Unmasked(visible, grid_of(images, visible, self.patch_size), count)
        conv, norm = self.stem
        assert isinstance(conv, nn.Conv2d)
        x = norm(whole.stem(images, conv))
        hidden = torch.zeros_like(x[0, 0, 0]) if self.mask_token is None else self.mask_token
        x = torch.where(whole.visible_sites(x), x, hidden.to(x.dtype))
        scales: list[Tensor] = []
        for stage in self.stages:
            x = stage(x, whole)
            scales.append(whole.sites(x))
        return scales

    def maps(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Compute the maps of the four stages of whole images, and that of the features."""
        height, width = images.shape[2:]
        rows, columns = patch_grid(height, width, self.patch_size)
        visible = torch.ones(len(images), rows * columns, dtype=torch.bool, device=images.device)
        maps = [
            rearrange(x, "b (gh gw) s t d -> b d (gh s) (gw t)", gh=rows)
            for x in self.scales(images, visible, rows * columns)
        ]
        return [*maps, maps[-1]]
