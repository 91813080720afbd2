"""The ConvNeXt block (arXiv 2201.03545) with GRN (ConvNeXt V2) or LayerScale (V1)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fcmae.sparse import Sparse
from fcmae.sparse.grn_mlp import Layers

EPS = 1e-6


class Mlp(nn.Module):
    """V1: pointwise expansion to 4d, GELU, and back. No site sees another one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Float[Tensor, "b *s d"], sparse: Sparse) -> Float[Tensor, "b *s d"]:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class GrnMlp(Layers):
    """V2: the same with GRN before the way back, whose norm runs over the visible sites."""

    def forward(self, x: Float[Tensor, "b *s d"], sparse: Sparse) -> Float[Tensor, "b *s d"]:
        return sparse.grn_mlp(x, self)


class Block(nn.Module):
    """Depthwise 7 x 7 convolution, LayerNorm, MLP, residual; LayerScale (1e-6) without GRN."""

    def __init__(self, dim: int, *, grn: bool = True) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.mlp = GrnMlp(dim) if grn else Mlp(dim)
        self.gamma = None if grn else nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, x: Float[Tensor, "b *s d"], sparse: Sparse) -> Float[Tensor, "b *s d"]:
        update = self.mlp(self.norm(sparse.depthwise(x, self.conv_dw)), sparse)
        return x + (update if self.gamma is None else update * self.gamma)


def initialise(root: nn.Module, generator: torch.Generator | None = None) -> None:
    """Truncated normal of std 0.02 for all weights of convolutions and linear layers, zero biases.

    Once, over all modules below `root`. Norms (1 and 0), GRN (0) and LayerScale (1e-6) start where
    they are made. The official code initialises twice, the second time with std 1.0.
    """
    for module in root.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
