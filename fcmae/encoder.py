"""The sparse ConvNeXt encoder, under timm's parameter names, and the table of its sizes."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fcmae.layers import EPS, Block
from fcmae.masking import patch_grid
from fcmae.sparse import Sparse, implementation


@dataclass(frozen=True)
class Size:
    """Blocks and channels of the four stages."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]


# ConvNeXt V2, table 9 (appendix A.1); V1 takes the same depths and widths.
SIZES = {
    "atto": Size((2, 2, 6, 2), (40, 80, 160, 320)),
    "femto": Size((2, 2, 6, 2), (48, 96, 192, 384)),
    "pico": Size((2, 2, 6, 2), (64, 128, 256, 512)),
    "nano": Size((2, 2, 8, 2), (80, 160, 320, 640)),
    "tiny": Size((3, 3, 9, 3), (96, 192, 384, 768)),
    "base": Size((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": Size((3, 3, 27, 3), (192, 384, 768, 1536)),
    "huge": Size((3, 3, 27, 3), (352, 704, 1408, 2816)),
}
MODELS = [f"{family}_{size}" for family in ("convnextv2", "convnext") for size in SIZES]


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
        name: one of `MODELS`.
        in_chans: channels of the images, any number.
        stem_stride: 4 for photographs; 2 or 1 for small images. The patch side p is 8 times it.
        sparse: implementation of the submanifold operations; all give the same values.

    Raises:
        ValueError: an argument outside the above.
    """

    def __init__(
        self,
        *,
        name: str = "convnextv2_atto",
        in_chans: int = 3,
        stem_stride: int = 4,
        sparse: str = "gathered",
    ) -> None:
        super().__init__()
        if name not in MODELS:
            raise ValueError(f"model name={name!r} is none of {', '.join(MODELS)}")
        if stem_stride not in (1, 2, 4):
            raise ValueError(f"stem_stride={stem_stride} must be 4, 2 or 1 (patches of 32, 16, 8)")
        if in_chans < 1:
            raise ValueError(f"in_chans={in_chans} must be at least 1")
        family, size = name.split("_")
        depths, widths = SIZES[size].depths, SIZES[size].widths
        self.patch_size = 8 * stem_stride
        self.dim = widths[-1]
        self.sparse = implementation(sparse)
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, widths[0], kernel_size=stem_stride, stride=stem_stride),
            nn.LayerNorm(widths[0], eps=EPS),
        )
        self.stages = nn.ModuleList(
            Stage(dim_in, dim, depth, grn=family == "convnextv2")
            for dim_in, dim, depth in zip(widths[:1] + widths[:3], widths, depths, strict=True)
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
