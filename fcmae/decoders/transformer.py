"""MAE's decoder: transformer blocks over all patches predict the hidden ones (MAE, section 3)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fcmae.encoders.transformer import EPS, blocks, initialise, positions
from fcmae.masking import among, take
from fcmae.vits import HEAD


class TransformerDecoder(nn.Module):
    """Predict hidden patches: project the features, fill in a learned token, attend, predict.

    Args:
        dim_in: width of the encoder's features.
        dim: width of the decoder, a multiple of 32, the width of a head; 512 in the paper.
        depth: number of blocks; 8 in the paper.
        pixels: number p p c of values in one patch, over all channels.
        generator: source of the initial weights, as MAE draws them; the global one by default.
    """

    def __init__(
        self,
        *,
        dim_in: int,
        dim: int,
        depth: int,
        pixels: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.project = nn.Linear(dim_in, dim)
        self.token = nn.Parameter(torch.zeros(dim))
        self.blocks = blocks(dim, heads=dim // HEAD, depth=depth)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.predict = nn.Linear(dim, pixels)
        initialise(self, generator)
        nn.init.normal_(self.token, std=0.02, generator=generator)

    def forward(
        self,
        latent: Float[Tensor, "b v d"],
        visible: Bool[Tensor, "b n"],
        grid: tuple[int, int],
    ) -> Float[Tensor, "b k ppc"]:
        """Predict the normalised pixels of the k = n - v hidden patches, in raster order.

        Args:
            latent: the encoder's features of the v visible patches, in raster order.
            visible: True where the encoder sees the patch.
            grid: rows and columns of patches.
        """
        n, v = visible.shape[1], latent.shape[1]
        x = among(self.token, self.project(latent), visible)
        x = self.blocks(x + positions(grid, x.shape[2], x.device))
        return self.predict(self.norm(take(x, ~visible, n - v)))
