"""Transformers on tokens of patches: pre-norm blocks, sin-cos positions, patches as tokens (MAE).

The blocks are timm's, whose attention is torch's `scaled_dot_product_attention`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from fcmae.masking import at, patchify

EPS = 1e-6


def blocks(
    dim: int, *, heads: int, depth: int, drop_path: Sequence[float] | None = None
) -> nn.Sequential:
    """Make the blocks of a transformer, which take and give tokens `[b, n, dim]`.

    Each is x + Attention(LayerNorm(x)), then x + MLP(LayerNorm(x)), with biases everywhere and an
    MLP of 4 x dim (Dosovitskiy et al. 2021, arXiv 2010.11929, equations 2 and 3).

    Args:
        dim: number of channels of a token.
        heads: number of heads of the attention.
        depth: number of blocks.
        drop_path: rate of stochastic depth of each block; by default none has it.
    """
    norm: Any = partial(nn.LayerNorm, eps=EPS)  # timm asks for a class, and calls it
    block = partial(Block, dim, heads, qkv_bias=True, norm_layer=norm)
    return nn.Sequential(*(block(drop_path=rate) for rate in drop_path or depth * [0.0]))


def positions(
    grid: tuple[int, int], dim: int, device: torch.device | None = None
) -> Float[Tensor, "n dim"]:
    """Compute the fixed positions of patches in raster order (MAE, arXiv 2111.06377, appendix A.1).

    The first half of the channels is sin and cos of the column, the second those of the row, each
    at the frequencies 10000^(-4i/dim) for i from 0 to dim/4 - 1.

    Args:
        grid: rows and columns of patches.
        dim: number of channels, a multiple of 4.
        device: where they are wanted.
    """
    by_row = build_sincos2d_pos_embed(list(grid), dim, interleave_sin_cos=True, device=device)
    return by_row.roll(dim // 2, 1)


class PatchEmbedding(nn.Module):
    """Patches as tokens: a convolution whose kernel is as large as its stride, on some patches.

    Args:
        in_chans: number of channels of the images.
        dim: number of channels of a token.
        patch_size: side of a patch in pixels.
    """

    def __init__(self, in_chans: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel_size=patch_size, stride=patch_size)

    def forward(
        self, images: Float[Tensor, "b c h w"], chosen: Int[Tensor, "b v"]
    ) -> Float[Tensor, "b v d"]:
        """Turn the chosen patches of images into tokens; no pixel of another one is read.

        Args:
            images: images that patches tile.
            chosen: indices of patches in raster order.
        """
        patches = rearrange(patchify(images, self.proj.kernel_size[0]), "b n p q c -> b n (p q c)")
        weight = rearrange(self.proj.weight, "d c p q -> d (p q c)")
        return F.linear(at(patches, chosen), weight, self.proj.bias)


def initialise(root: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw the weights of the layers of a transformer as MAE does, and set their biases to zero.

    Weights of linear layers, and of patch embeddings as the linear layers that they are, are
    uniform (Glorot and Bengio 2010, "xavier"). Norms keep the values 1 and 0.

    Args:
        root: the module whose submodules are initialised.
        generator: source of the random numbers; the global one by default.
    """
    for module in root.modules():
        if isinstance(module, PatchEmbedding):
            nn.init.xavier_uniform_(module.proj.weight.data.flatten(1), generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
        else:
            continue
        bias = module.proj.bias if isinstance(module, PatchEmbedding) else module.bias
        if bias is not None:
            nn.init.zeros_(bias)
