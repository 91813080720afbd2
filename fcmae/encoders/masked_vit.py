"""A vision transformer on the visible patches of images (MAE, arXiv 2111.06377, section 3)."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fcmae.architecture import Architecture
from fcmae.encoders.transformer import EPS, PatchEmbedding, blocks, initialise, positions
from fcmae.masking import grid_of, indices
from fcmae.patches import patch_grid
from fcmae.visible_encoder import VisibleEncoder
from fcmae.vits import vit

LEVELS = 4  # as many as a ConvNeXt has stages


class MaskedVit(VisibleEncoder):
    """A ViT that drops hidden patches before its first block, so that it never reads them.

    Its weights have timm's names. With every patch visible, the features are those of timm's
    `vit_*`, whose positions are fixed here and not among the weights.

    Args:
        architecture: `mae_vit_*`, and the channels of its images.
        generator: source of the initial weights, as MAE draws them; the global one by default.

    Raises:
        ValueError: there is no such encoder.
    """

    def __init__(
        self, architecture: Architecture, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        architecture.check_encoder()
        sizes = vit(architecture.name)
        self.patch_size = architecture.patch_size
        self.dim = sizes.dim
        self.patch_embed = PatchEmbedding(architecture.in_chans, self.dim, self.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.dim))
        self.blocks = blocks(self.dim, heads=sizes.heads, depth=sizes.depth)
        self.norm = nn.LayerNorm(self.dim, eps=EPS)
        initialise(self, generator)
        nn.init.normal_(self.cls_token, std=0.02, generator=generator)

    def forward(
        self,
        images: Float[Tensor, "b c h w"],
        visible: Bool[Tensor, "b n"],
        count: int | None = None,
    ) -> Float[Tensor, "b v d"]:
        """Compute the features of the visible patches in raster order, after the final norm.

        The class token takes part in the attention, and is left out of the features.

        Args:
            images: images whose height and width are multiples of the patch side.
            visible: True where the encoder sees the patch; n patches in raster order, with the same
                number v of True in every row.
            count: the number v, if the caller knows it.

        Raises:
            ValueError: the sizes do not fit, or rows differ in their numbers of visible patches.
        """
        grid = grid_of(images, visible, self.patch_size)
        tokens = self.tokens(images, indices(visible, count), grid)
        return self.norm(self.blocks(tokens))[:, 1:]

    def scales(
        self,
        images: Float[Tensor, "b c h w"],
        visible: Bool[Tensor, "b n"],
        count: int | None = None,
    ) -> list[Float[Tensor, "b v _ _ _"]]:
        """Compute the features of the visible patches as those of the only scale.

        Args:
            images: see `forward`.
            visible: see `forward`.
            count: see `forward`.

        Raises:
            ValueError: see `forward`.
        """
        return [self(images, visible, count)[:, :, None, None]]

    def tokens(
        self, images: Float[Tensor, "b c h w"], chosen: Int[Tensor, "b v"], grid: tuple[int, int]
    ) -> Float[Tensor, "b t d"]:
        """Make the tokens that the first block takes: the class token, and the chosen patches."""
        places = positions(grid, self.dim, images.device)[chosen]
        patches = self.patch_embed(images, chosen) + places
        return torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)

    def maps(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d h w"]]:
        """Compute what every quarter of the blocks makes of whole images, and the features."""
        height, width = images.shape[2:]
        grid = patch_grid(height, width, self.patch_size)
        every = torch.arange(grid[0] * grid[1], device=images.device).expand(len(images), -1)
        x = self.tokens(images, every, grid)
        found = list[Tensor]()
        for number, block in enumerate(self.blocks, 1):
            x = block(x)
            if number % (len(self.blocks) // LEVELS) == 0:
                found.append(x)
        return [
            rearrange(tokens[:, 1:], "b (h w) d -> b d h w", h=grid[0])
            for tokens in (*found, self.norm(x))
        ]
