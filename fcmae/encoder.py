"""The sparse ConvNeXt encoder, under timm's parameter names."""

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fcmae.architecture import Architecture, patch_grid
from fcmae.layers import EPS, Block
from fcmae.sparse import Sparse, implementation


class Stage(nn.Module):
    """A 2x2 downsampling, except in the first stage, and the blocks."""

    def __init__(self, dim_in: int, dim: int, depth: int, *, grn: bool) -> None:
        super().__init__()
        self.downsample = nn.Identity()
        if dim_in != dim:
            self.downsample = nn.Sequential(
                nn.LayerNorm(dim_in, eps=EPS), nn.Conv2d(dim_in, dim, kernel_size=2, stride=2)
            )
        self.blocks = nn.ModuleList(Block(dim, grn=grn) for _ in range(depth))
        self.recompute = False  # keep only what goes in, for the backward pass

    def forward(self, x: Float[Tensor, "b *s c"], sparse: Sparse) -> Float[Tensor, "b *t d"]:
        if isinstance(self.downsample, nn.Sequential):
            norm, conv = self.downsample
            assert isinstance(conv, nn.Conv2d)
            x = sparse.downsample(norm(x), conv)
        for block in self.blocks:
            x = block(x, sparse)
        return x


class Encoder(nn.Module):
    """ConvNeXt V2 (`convnextv2_*`) or V1 (`convnext_*`) on the visible patches of images.

    Args:
        architecture: which of them, and its channels and stem. Images of other sizes than its own
            pass too, as long as patches tile them.
        sparse: implementation of the submanifold operations; all give the same values.

    Raises:
        ValueError: see `Architecture.check_encoder` and `fcmae.sparse.implementation`.
    """

    def __init__(self, architecture: Architecture, sparse: str = "gathered") -> None:
        super().__init__()
        architecture.check_encoder()
        widths = architecture.widths
        self.patch_size = architecture.patch_size
        self.dim = architecture.dim
        self.sparse = implementation(sparse)
        self.stem = nn.Sequential(
            nn.Conv2d(
                architecture.in_chans,
                widths[0],
                kernel_size=architecture.stem_stride,
                stride=architecture.stem_stride,
            ),
            nn.LayerNorm(widths[0], eps=EPS),
        )
        self.stages = nn.ModuleList(
            Stage(dim_in, dim, depth, grn=architecture.has_grn)
            for dim_in, dim, depth in zip(
                widths[:1] + widths[:3], widths, architecture.depths, strict=True
            )
        )

    def forward(
        self,
        images: Float[Tensor, "b c h w"],
        visible: Bool[Tensor, "b n"],
        count: int | None = None,
    ) -> Float[Tensor, "b v d"]:
        """Features of the visible patches in raster order, before any final norm.

        Args:
            images: h and w multiples of the patch side p.
            visible: n = (h/p)(w/p) patches in raster order, as many True in every row.
            count: v where it is known, which spares a GPU one synchronisation.

        Raises:
            ValueError: sizes that do not fit, unequal numbers of visible patches.
        """
        h, w = images.shape[2:]
        grid = patch_grid(h, w, self.patch_size)
        if visible.shape != (len(images), grid[0] * grid[1]):
            raise ValueError(
                f"visible is {tuple(visible.shape)}, but {len(images)} images of {h}x{w} have"
                f" {grid[0]}x{grid[1]} patches of {self.patch_size}: pass visible as"
                f" ({len(images)}, {grid[0] * grid[1]})"
            )
        sparse = self.sparse(visible, grid, count)
        conv, norm = self.stem
        assert isinstance(conv, nn.Conv2d)
        x = norm(sparse.stem(images, conv))
        for stage in self.stages:
            if stage.recompute:  # gradient checkpointing, Chen et al. 2016; nothing is random
                x = checkpoint(stage, x, sparse, use_reentrant=False, preserve_rng_state=False)
            else:
                x = stage(x, sparse)
        return sparse.features(x)
