"""The sparse ConvNeXt encoder, under timm's parameter names."""

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fcmae.architecture import Architecture
from fcmae.layers import EPS, Block
from fcmae.masking import grid_of
from fcmae.sparse import Sparse, implementation
from fcmae.visible_encoder import VisibleEncoder


class Stem(nn.Sequential):
    """A convolution with a kernel as large as its stride, and LayerNorm."""

    compiled_whole = True

    def __init__(self, in_chans: int, dim: int, stride: int) -> None:
        conv = nn.Conv2d(in_chans, dim, kernel_size=stride, stride=stride)
        super().__init__(conv, nn.LayerNorm(dim, eps=EPS))

    def forward(  # type: ignore[override]  # a Sequential takes one argument
        self, images: Float[Tensor, "b c h w"], sparse: Sparse
    ) -> Float[Tensor, "b *s d"]:
        conv, norm = self
        assert isinstance(conv, nn.Conv2d)
        return norm(sparse.stem(images, conv))


class Downsample(nn.Sequential):
    """LayerNorm, and a 2 x 2 convolution with stride 2."""

    compiled_whole = True

    def __init__(self, dim_in: int, dim: int) -> None:
        conv = nn.Conv2d(dim_in, dim, kernel_size=2, stride=2)
        super().__init__(nn.LayerNorm(dim_in, eps=EPS), conv)

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "b *s c"], sparse: Sparse
    ) -> Float[Tensor, "b *t d"]:
        norm, conv = self
        assert isinstance(conv, nn.Conv2d)
        return sparse.downsample(norm(x), conv)


class Stage(nn.Module):
    """One stage: a 2x2 downsampling of `dim_in` channels, if there are any, and `depth` blocks."""

    def __init__(self, dim_in: int | None, dim: int, depth: int, *, grn: bool) -> None:
        super().__init__()
        self.downsample = nn.Identity() if dim_in is None else Downsample(dim_in, dim)
        self.blocks = nn.ModuleList(Block(dim, grn=grn) for _ in range(depth))
        self.recompute = False  # keep the input alone, and compute the rest again in backward

    def forward(self, x: Float[Tensor, "b *s c"], sparse: Sparse) -> Float[Tensor, "b *t d"]:
        if isinstance(self.downsample, Downsample):
            x = self.downsample(x, sparse)
        for block in self.blocks:
            x = block(x, sparse)
        return x


class Encoder(VisibleEncoder):
    """ConvNeXt V2 (`convnextv2_*`) or V1 (`convnext_*`) on the visible patches of images.

    Args:
        architecture: the encoder's name, channels and stem. It also takes images of other sizes,
            as long as patches tile them.
        sparse: name of the implementation of the submanifold operations: `gathered`, `reference`
            or `minkowski`. All give the same values.

    Raises:
        ValueError: there is no such encoder or implementation, or it is not installed.
    """

    def __init__(self, architecture: Architecture, sparse: str = "gathered") -> None:
        super().__init__()
        architecture.check_encoder()
        widths = architecture.size.widths
        self.patch_size = architecture.patch_size
        self.dim = architecture.dim
        self.sparse = implementation(sparse)
        self.stem = Stem(architecture.in_chans, widths[0], architecture.stem_stride)
        self.stages = nn.ModuleList(
            Stage(dim_in, dim, depth, grn=architecture.has_grn)
            for dim_in, dim, depth in zip(
                (None, *widths[:3]), widths, architecture.size.depths, strict=True
            )
        )

    def forward(
        self,
        images: Float[Tensor, "b c h w"],
        visible: Bool[Tensor, "b n"],
        count: int | None = None,
    ) -> Float[Tensor, "b v d"]:
        """Compute the features of the visible patches in raster order, before any final norm.

        They are those of the last of the `scales`, where a patch is one site.

        Args:
            images: see `scales`.
            visible: see `scales`.
            count: see `scales`.

        Raises:
            ValueError: see `scales`.
        """
        return self.scales(images, visible, count)[-1][:, :, 0, 0]

    def scales(
        self,
        images: Float[Tensor, "b c h w"],
        visible: Bool[Tensor, "b n"],
        count: int | None = None,
    ) -> list[Float[Tensor, "b v _ _ _"]]:
        """Compute what each of the four stages makes of the visible patches, in raster order.

        Args:
            images: images whose height and width are multiples of the patch side p.
            visible: True where the encoder sees the patch; n = (h/p)(w/p) patches in raster order,
                with the same number v of True in every row.
            count: the number v, if the caller knows it; this saves a GPU one synchronisation.

        Raises:
            ValueError: the sizes do not fit, or rows differ in their numbers of visible patches.
        """
        grid = grid_of(images, visible, self.patch_size)
        sparse = self.sparse(visible, grid, count)
        x = self.stem(images, sparse)
        scales: list[Tensor] = []  # the compiler of torch knows no `list[Tensor]()`
        for stage in self.stages:
            if stage.recompute:  # gradient checkpointing, Chen et al. 2016; nothing is random
                x = checkpoint(stage, x, sparse, use_reentrant=False, preserve_rng_state=False)
            else:
                x = stage(x, sparse)
            scales.append(sparse.sites(x))
        return scales
