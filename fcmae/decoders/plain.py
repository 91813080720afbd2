"""The plain decoder: one dense block predicts the hidden patches (ConvNeXt V2, section 3)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fcmae.layers import Block
from fcmae.masking import among, take
from fcmae.sparse import implementation


class Decoder(nn.Module):
    """Predict hidden patches: project the features, fill in a learned token, convolve, predict.

    Args:
        dim_in: width of the encoder's features.
        dim: width of the decoder; 512 in the paper.
        depth: number of blocks; 1 in the paper, where 8 gave the same accuracy (table 1).
        pixels: number p p c of values in one patch, over all channels.
    """

    def __init__(self, *, dim_in: int, dim: int, depth: int, pixels: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim_in, dim)
        self.token = nn.Parameter(torch.zeros(dim))
        self.blocks = nn.ModuleList(Block(dim) for _ in range(depth))
        self.predict = nn.Linear(dim, pixels)
        self.sparse = implementation("gathered")

    def forward(
        self,
        latent: Float[Tensor, "b v d"],
        visible: Bool[Tensor, "b n"],
        grid: tuple[int, int],
    ) -> Float[Tensor, "b k ppc"]:
        """Predict the normalised pixels of the k = n - v hidden patches, in raster order.

        The blocks see all n patches, one site each. Visible patches are not predicted: the loss
        does not need them, and the last product is smaller.

        Args:
            latent: the encoder's features of the v visible patches, in raster order.
            visible: True where the encoder sees the patch.
            grid: rows and columns of patches.
        """
        n, v = visible.shape[1], latent.shape[1]
        x = among(self.token, self.project(latent), visible)
        x = x[:, :, None, None]  # the gathered layout with every patch visible and one site a patch
        dense = self.sparse(torch.ones_like(visible), grid, n)
        for block in self.blocks:
            x = block(x, dense)
        return self.predict(take(x[:, :, 0, 0], ~visible, n - v))
