"""ConvMAE's encoder: masked convolutions, then a transformer (arXiv 2205.03892, section 3.1).

Its weights have the names of the public checkpoints.
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from timm.layers.drop import DropPath
from torch import Tensor, nn

from fcmae.architecture import Architecture
from fcmae.convmaes import convmae
from fcmae.encoders import transformer
from fcmae.encoders.transformer import positions
from fcmae.masking import grid_of, indices
from fcmae.patches import patch_grid
from fcmae.sparse import Sparse, implementation
from fcmae.sparse.dense import Dense
from fcmae.visible_encoder import VisibleEncoder

EPS = 1e-5  # of the norms of the convolutional stages


class Embedding(nn.Module):
    """A convolution whose kernel is as large as its stride, LayerNorm, GELU: a stage begins."""

    def __init__(self, dim_in: int, dim: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim_in, dim, kernel_size=stride, stride=stride)
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Float[Tensor, "b *s d"]) -> Float[Tensor, "b *s d"]:
        """Compute what follows the convolution, which an implementation of `Sparse` runs."""
        return nn.functional.gelu(self.norm(x))


class Mlp(nn.Module):
    """A linear layer to `expansion` times the channels, GELU, and one back."""

    def __init__(self, dim: int, expansion: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, expansion * dim)
        self.fc2 = nn.Linear(expansion * dim, dim)

    def forward(self, x: Float[Tensor, "b *s d"]) -> Float[Tensor, "b *s d"]:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class ConvBlock(nn.Module):
    """x + conv2(DW(mask conv1(LN(x)))), then x + MLP(LN(x)); DW is a depthwise 5 x 5 convolution.

    Args:
        dim: number of channels.
        expansion: of the MLP.
        drop_path: rate of stochastic depth.
    """

    def __init__(self, dim: int, expansion: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.conv1 = nn.Linear(dim, dim)
        self.attn = nn.Conv2d(dim, dim, kernel_size=5, padding=2, groups=dim)
        self.conv2 = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, expansion)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Float[Tensor, "b *s d"], sparse: Sparse) -> Float[Tensor, "b *s d"]:
        near = self.conv2(sparse.depthwise(self.conv1(self.norm1(x)), self.attn))
        x = x + self.drop_path(near)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stages(nn.Module):
    """The layers of the encoder, for visible patches and for whole images.

    Two stages of masked convolutions, at strides of `stem_stride` and twice that; the patches as
    tokens, and a transformer on the visible ones; what the first two stages made is added to them,
    by strided convolutions.

    Args:
        architecture: `convmae_*`, its stem, and the channels of its images.
        generator: source of the initial weights; the global one by default.
        drop_path: rate of stochastic depth of the last block, to which that of the others grows.
        with_fusion: whether there are the strided convolutions, and the norm behind the sum.

    Raises:
        ValueError: there is no such encoder.
    """

    def __init__(
        self,
        architecture: Architecture,
        generator: torch.Generator | None = None,
        drop_path: float = 0.0,
        *,
        with_fusion: bool = True,
    ) -> None:
        super().__init__()
        architecture.check_encoder()
        size = convmae(architecture.name)
        first, second, self.dim = size.widths
        self.patch_size = architecture.patch_size
        of_first, of_second, of_third = stochastic_depth(drop_path, size.depths)
        self.patch_embed1 = Embedding(architecture.in_chans, first, architecture.stem_stride)
        self.blocks1 = nn.ModuleList(ConvBlock(first, size.expansion, rate) for rate in of_first)
        self.patch_embed2 = Embedding(first, second, 2)
        self.blocks2 = nn.ModuleList(ConvBlock(second, size.expansion, rate) for rate in of_second)
        self.patch_embed3 = Embedding(second, self.dim, 2)
        self.patch_embed4 = nn.Linear(self.dim, self.dim)
        self.blocks3 = transformer.blocks(
            self.dim, heads=size.heads, depth=len(of_third), drop_path=of_third
        )
        if with_fusion:
            self.stage1_output_decode = nn.Conv2d(first, self.dim, kernel_size=4, stride=4)
            self.stage2_output_decode = nn.Conv2d(second, self.dim, kernel_size=2, stride=2)
            self.norm = nn.LayerNorm(self.dim, eps=transformer.EPS)
        initialise(self, generator)

    def stages(
        self,
        images: Float[Tensor, "b c h w"],
        sparse: Sparse,
        places: Float[Tensor, "#b v d"],
    ) -> tuple[Float[Tensor, "b *s e"], Float[Tensor, "b *t f"], Float[Tensor, "b v d"]]:
        """Compute what the three stages make: two activations in the layout of `sparse`, tokens.

        Args:
            images: images that patches tile.
            sparse: the operations on the visible patches.
            places: the positions of these patches, which are added to the tokens.
        """
        x = self.patch_embed1(sparse.stem(images, self.patch_embed1.proj))
        for block in self.blocks1:
            x = block(x, sparse)
        fine = x
        x = self.patch_embed2(sparse.downsample(x, self.patch_embed2.proj))
        for block in self.blocks2:
            x = block(x, sparse)
        middle = x
        x = self.patch_embed3(sparse.downsample(x, self.patch_embed3.proj))
        return fine, middle, self.blocks3(self.patch_embed4(in_patches(x, sparse)) + places)

    def fused(
        self,
        sparse: Sparse,
        fine: Float[Tensor, "b *s e"],
        middle: Float[Tensor, "b *t f"],
        tokens: Float[Tensor, "b v d"],
    ) -> Float[Tensor, "b v d"]:
        """Add the first two stages to the tokens of the third, and normalise."""
        first = in_patches(sparse.downsample(fine, self.stage1_output_decode), sparse)
        second = in_patches(sparse.downsample(middle, self.stage2_output_decode), sparse)
        return self.norm(tokens + first + second)


class ConvMAE(Stages, VisibleEncoder):
    """The encoder on the visible patches of images.

    Args:
        architecture: `convmae_*`, its stem, and the channels of its images. It takes images of
            other sizes, too, as long as patches tile them.
        sparse: name of the implementation of the submanifold operations: `gathered`, `reference`
            or `minkowski`.
        generator: source of the initial weights; the global one by default.

    Raises:
        ValueError: there is no such encoder or implementation.
    """

    def __init__(
        self,
        architecture: Architecture,
        sparse: str = "gathered",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(architecture, generator)
        self.sparse = implementation(sparse)

    def forward(
        self,
        images: Float[Tensor, "b c h w"],
        visible: Bool[Tensor, "b n"],
        count: int | None = None,
    ) -> Float[Tensor, "b v d"]:
        """Compute the features of the visible patches in raster order, after the final norm.

        Args:
            images: images whose height and width are multiples of the patch side.
            visible: True where the encoder sees the patch; n patches in raster order, with the same
                number v of True in every row.
            count: the number v, if the caller knows it.

        Raises:
            ValueError: the sizes do not fit, or rows differ in their numbers of visible patches.
        """
        return self.scales(images, visible, count)[-1][:, :, 0, 0]

    def scales(
        self,
        images: Float[Tensor, "b c h w"],
        visible: Bool[Tensor, "b n"],
        count: int | None = None,
    ) -> list[Float[Tensor, "b v _ _ _"]]:
        """Compute the features of the visible patches on the scales of the three stages.

        Args:
            images: see `forward`.
            visible: see `forward`.
            count: see `forward`.

        Raises:
            ValueError: see `forward`.
        """
        grid = grid_of(images, visible, self.patch_size)
        sparse = self.sparse(visible, grid, count)
        places = positions(grid, self.dim, images.device)[indices(visible, count)]
        fine, middle, tokens = self.stages(images, sparse, places)
        last = self.fused(sparse, fine, middle, tokens)
        return [sparse.sites(fine), sparse.sites(middle), last[:, :, None, None]]

    def maps(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Compute the maps of the three stages of whole images, and that of the features."""
        height, width = images.shape[2:]
        grid = patch_grid(height, width, self.patch_size)
        sparse = Dense(grid)
        fine, middle, tokens = self.stages(
            images, sparse, positions(grid, self.dim, images.device)[None]
        )
        rows = (tokens, self.fused(sparse, fine, middle, tokens))
        return [
            *(rearrange(x, "b h w d -> b d h w") for x in (fine, middle)),
            *(rearrange(x, "b (h w) d -> b d h w", h=grid[0]) for x in rows),
        ]


def in_patches(x: Float[Tensor, "b *s d"], sparse: Sparse) -> Float[Tensor, "b v d"]:
    """Take the features of the visible patches, where a patch is one site."""
    return sparse.sites(x)[:, :, 0, 0]


def stochastic_depth(last: float, depths: Sequence[int]) -> list[list[float]]:
    """The rate of each block of each stage, which grows evenly from 0 to that of the last block."""
    most = sum(depths) - 1
    rates = iter(last * i / most for i in range(sum(depths)))
    return [[next(rates) for _ in range(depth)] for depth in depths]


def initialise(encoder: Stages, generator: torch.Generator | None = None) -> None:
    """Draw the initial weights as the public code does.

    Convolutions, those of 1 x 1 among them, are uniform within 1/sqrt(inputs), as torch has them;
    the linear layers of the tokens and the third embedding are uniform (Glorot and Bengio 2010,
    "xavier"), with biases of 0. Norms keep the values 1 and 0.

    Args:
        encoder: the encoder.
        generator: source of the random numbers; the global one by default.
    """
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            bound = 1 / math.sqrt(module.weight[0].numel())
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
    nn.init.xavier_uniform_(encoder.patch_embed3.proj.weight.data.flatten(1), generator=generator)
    for module in (encoder.patch_embed4, encoder.blocks3):
        transformer.initialise(module, generator)
