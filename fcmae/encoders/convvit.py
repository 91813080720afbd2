"""ConvMAE's encoder on whole images, in timm's manner, to probe, fine-tune and export.

What fine-tuning trains (arXiv 2205.03892, section 4.1) is the encoder without the fusion of its
stages: the mean of the tokens, a norm, a linear layer. Frozen features have the fusion.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from einops import rearrange
from jaxtyping import Float
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from fcmae.architecture import Architecture
from fcmae.encoders import transformer
from fcmae.encoders.convmae import Stages
from fcmae.encoders.transformer import positions
from fcmae.patches import patch_grid
from fcmae.sparse.dense import Dense


class Mean(nn.Module):
    """The mean over positions: one vector an image."""

    def forward(self, x: Float[Tensor, "b d gh gw"]) -> Float[Tensor, "b 1 d"]:
        return x.mean((2, 3))[:, None]


class Head(nn.Module):
    """Pooling, a norm of each vector where there is no fusion, and a linear layer to logits."""

    def __init__(self, dim: int, num_classes: int, *, fused: bool) -> None:
        super().__init__()
        self.pool: nn.Module = Mean()
        self.norm = nn.Identity() if fused else nn.LayerNorm(dim, eps=transformer.EPS)
        self.fc = nn.Linear(dim, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Float[Tensor, "b d gh gw"], pre_logits: bool) -> Float[Tensor, "b _"]:
        pooled = self.norm(self.pool(x)).flatten(1)
        return pooled if pre_logits else self.fc(pooled)


class ConvViT(Stages):
    """The encoder on whole images, and a head.

    Its weights have the encoder's names. With the fusion, its features are those of the encoder
    with every patch visible; without it, the positions are weights, too, and start as fixed ones.

    Args:
        architecture: `convmae_*`, and its images.
        num_classes: number of classes; 0 makes no classifier.
        drop_path: rate of stochastic depth of the last block.
        fused: whether the first two stages are added to the tokens.

    Raises:
        ValueError: there is no such encoder, or patches do not tile the images.
    """

    def __init__(
        self, architecture: Architecture, num_classes: int, drop_path: float, *, fused: bool
    ) -> None:
        super().__init__(architecture, drop_path=drop_path, with_fusion=fused)
        self.num_features = self.dim
        self.grid = architecture.grid
        self.with_fusion = fused
        self.pos_embed: nn.Parameter | None = None
        if not fused:
            self.pos_embed = nn.Parameter(positions(self.grid, self.dim)[None])
        self.head = Head(self.dim, num_classes, fused=fused)
        strides = [architecture.stem_stride * step for step in (1, 2, 4)]
        widths = [self.patch_embed1, self.patch_embed2, self.patch_embed3]
        self.feature_info: Sequence[Mapping[str, Any]] = [
            {"num_chs": embed.proj.out_channels, "reduction": stride, "module": f"blocks{i}"}
            for i, (embed, stride) in enumerate(zip(widths, strides, strict=True), 1)
        ]

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _"]:
        """Compute the logits, or the pooled features if there is no classifier."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d gh gw"]:
        """Compute the last map, one site a patch."""
        return self.levels(images)[-1]

    def forward_head(
        self, x: Float[Tensor, "b d gh gw"], *, pre_logits: bool = False
    ) -> Float[Tensor, "b _"]:
        """Compute logits from the last map, or pool it, with `pre_logits`."""
        return self.head(x, pre_logits)

    def levels(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Compute the maps of the three stages, the last one with the fusion if there is one."""
        height, width = images.shape[2:]
        grid = patch_grid(height, width, self.patch_size)
        sparse = Dense(grid)
        fine, middle, tokens = self.stages(images, sparse, self.places(grid))
        if self.with_fusion:
            tokens = self.fused(sparse, fine, middle, tokens)
        return [
            *(rearrange(x, "b h w d -> b d h w") for x in (fine, middle)),
            rearrange(tokens, "b (h w) d -> b d h w", h=grid[0]),
        ]

    def places(self, grid: tuple[int, int]) -> Float[Tensor, "1 n d"]:
        """The positions of the patches: fixed ones, or the learned ones resampled to this grid."""
        if self.pos_embed is None:
            return positions(grid, self.dim, self.patch_embed4.weight.device)[None]
        if grid == self.grid:
            return self.pos_embed
        return resample_abs_pos_embed(
            self.pos_embed, list(grid), list(self.grid), num_prefix_tokens=0
        )

    def set_input_size(self, size: tuple[int, int]) -> None:
        """Change the size of the images, in pixels, and resample the learned positions to it.

        Raises:
            ValueError: patches do not tile the images.
        """
        grid = patch_grid(*size, self.patch_size)
        if self.pos_embed is not None:
            self.pos_embed = nn.Parameter(self.places(grid).detach())
        self.grid = grid

    def forward_intermediates(
        self,
        images: Float[Tensor, "b c h w"],
        indices: int | list[int],
        *,
        intermediates_only: bool,
    ) -> list[Float[Tensor, "b _ _ _"]]:
        """Compute the maps of the levels at `indices`, or of that many last levels.

        Args:
            images: normalised images.
            indices: of the levels, or how many.
            intermediates_only: must be true; timm's models return the last map, too, otherwise.
        """
        assert intermediates_only
        maps = self.levels(images)
        return maps[-indices:] if isinstance(indices, int) else [maps[i] for i in indices]

    def prune_intermediate_layers(
        self, indices: int | list[int], *, prune_norm: bool = False
    ) -> list[int]:
        """List the indices of these levels; nothing is removed: the last one needs them all."""
        levels = list(range(len(self.feature_info)))
        return levels[-indices:] if isinstance(indices, int) else indices

    def get_classifier(self) -> nn.Module:
        """Return the layer that computes the logits."""
        return self.head.fc

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that do not decay, besides biases and norms: the positions."""
        return {"pos_embed"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Tell which parameters belong to which layer, for `timm.models.group_parameters`.

        As in the public code, what comes before the transformer is layer 0, each of its blocks one
        more, and the head the last.

        Args:
            coarse: whether the blocks are one layer.
        """
        blocks = r"^blocks3" if coarse else r"^blocks3\.(\d+)"
        return {"stem": r"^(?:pos_embed|patch_embed\d|blocks[12])", "blocks": blocks}
