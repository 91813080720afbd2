"""The operations with every patch visible: those of a dense network, for probes and export."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from fcmae.sparse.reference import Reference


class Dense(Reference):
    """The operations of `fcmae.sparse.Sparse` on whole images, `[b, gh*s, gw*s, d]`.

    Args:
        grid: rows and columns of patches.
    """

    def __init__(self, grid: tuple[int, int]) -> None:
        self.grid = grid

    def only_visible(self, x: Float[Tensor, "b h w d"]) -> Float[Tensor, "b h w d"]:
        return x

    def sites(self, x: Float[Tensor, "b h w d"]) -> Float[Tensor, "b n s s d"]:
        gh, gw = self.grid
        return rearrange(x, "b (gh s) (gw t) d -> b (gh gw) s t d", gh=gh, gw=gw)
