"""LeNet-5 (LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998).

    layer   maps, units   side   kernel   trainable parameters
    C1      6             28     5 x 5    156
    S2      6             14     2 x 2    12
    C3      16            10     5 x 5    1,516
    S4      16            5      2 x 2    32
    C5      120           1      5 x 5    48,120
    F6      84                            10,164

60,000 parameters and 340,908 connections on grey images of 32 x 32 pixels. On MNIST it has an error
of 0.95 %, and of 0.8 % with distorted images added. Its output units compare F6 with a fixed
picture of each digit (equation 7); a linear layer stands in their place, for classes of any kind.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.lineage.network import Network

# The maps of S2 that each map of C3 reads (table I): it breaks their symmetry.
READ_BY_C3 = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5)),
)


class Squash(nn.Module):
    """The units' own function, f(a) = 1.7159 tanh(2/3 a) (equation 6 and appendix A)."""

    def forward(self, x: Float[Tensor, "*sizes"]) -> Float[Tensor, "*sizes"]:
        return 1.7159 * torch.tanh(2 / 3 * x)


class Subsampling(nn.Module):
    """The sum of four neighbours, times a coefficient of its map, plus a bias (section II.B).

    Args:
        maps: number c of maps.
    """

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(maps))
        self.bias = nn.Parameter(torch.empty(maps))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        sums = 4 * F.avg_pool2d(x, 2)
        return sums * self.weight[:, None, None] + self.bias[:, None, None]


class PartlyConnected(nn.Module):
    """A convolution each of whose maps reads some of the maps before (table I).

    Args:
        read: the maps that each of the m maps reads.
    """

    def __init__(self, read: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.read = read
        self.maps = nn.ModuleList(nn.Conv2d(len(maps), 1, 5) for maps in read)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m i j"]:
        made = (conv(x[:, maps]) for conv, maps in zip(self.maps, self.read, strict=True))
        return torch.cat(list(made), dim=1)


class LeNet5(Network):
    """LeNet-5, at any image size: C5 reads 5 x 5 averages of S4's maps.

    At 32 pixels S4 has 5 x 5 sites, so that the average is what was there.

    Args:
        in_chans: number of channels of the images; the paper's have one.
        outputs: number of values of the head; 0 makes none.
    """

    def __init__(self, in_chans: int = 1, outputs: int = 10) -> None:
        maps = nn.Sequential(
            *(nn.Conv2d(in_chans, 6, 5), Squash()),  # C1
            *(Subsampling(6), Squash()),  # S2
            *(PartlyConnected(READ_BY_C3), Squash()),  # C3
            *(Subsampling(16), Squash()),  # S4
        )
        vector = nn.Sequential(
            *(nn.AdaptiveAvgPool2d(5), nn.Conv2d(16, 120, 5), Squash()),  # C5
            *(nn.Flatten(), nn.Linear(120, 84), Squash()),  # F6
        )
        super().__init__(maps, vector, 84, outputs)
        self.apply(initialise)


def initialise(module: nn.Module) -> None:
    """Draw the weights from -2.4/n to 2.4/n, n being the inputs of a unit (appendix A)."""
    if isinstance(module, nn.Conv2d | nn.Linear | Subsampling):
        inputs = 4 if isinstance(module, Subsampling) else module.weight[0].numel()
        nn.init.uniform_(module.weight, -2.4 / inputs, 2.4 / inputs)
        assert module.bias is not None
        nn.init.uniform_(module.bias, -2.4 / inputs, 2.4 / inputs)
