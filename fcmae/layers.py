"""The ConvNeXt block (arXiv 2201.03545) with GRN (ConvNeXt V2) or LayerScale (V1)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fcmae.sparse import Sparse
from fcmae.sparse.grn_mlp import Layers

EPS = 1e-6


class Mlp(nn.Module):
    """The MLP of a V1 block: a linear layer from d to 4d channels, GELU, and one back to d."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Float[Tensor, "b *s d"], sparse: Sparse) -> Float[Tensor, "b *s d"]:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class GrnMlp(Layers):
    """The MLP of a V2 block: as `Mlp`, with GRN over the visible sites before the second layer."""

    def forward(self, x: Float[Tensor, "b *s d"], sparse: Sparse) -> Float[Tensor, "b *s d"]:
        return sparse.grn_mlp(x, self)


class Block(nn.Module):
    """A ConvNeXt block: depthwise 7 x 7 convolution, LayerNorm, MLP, residual connection.

    Args:
        dim: number d of channels.
        grn: whether the MLP has GRN, as in V2; without it, as in V1, LayerScale (1e-6 at first)
            scales what is added.
    """

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
    """Draw the weights of all convolutions and linear layers, and set their biases to zero.

    Transposed convolutions are among them.

    The weights are truncated normal with standard deviation 0.02. Norms (1 and 0), GRN (0) and
    LayerScale (1e-6) keep the values that they are made with. The official code initialises twice,
    the second time with standard deviation 1.0; this happens once.

    Args:
        root: the module whose submodules are initialised.
        generator: source of the random numbers; the global one by default.
    """
    for module in root.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
