"""Submanifold operations on the visible patches: one contract, one file per implementation.

A sparse convolution here has outputs at visible sites only, and a hidden site contributes exactly
zero to it (Graham and van der Maaten 2017; ConvNeXt V2 section 3). Everything else in the encoder
works on each site alone, so that an implementation may lay the sites out as it likes.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor, nn

from fcmae.sparse.gathered import Gathered
from fcmae.sparse.grn_mlp import Layers
from fcmae.sparse.reference import Reference


@runtime_checkable
class Sparse(Protocol):
    """The operations on one batch that need to know where the visible sites are.

    `x` is an activation in the layout of the implementation, `[b, *sites, d]`, channels last.
    """

    def stem(self, images: Float[Tensor, "b c h w"], conv: nn.Conv2d) -> Float[Tensor, "b *s d"]:
        """Convolve the visible patches with a kernel as large as its stride, inside each patch."""
        ...

    def downsample(self, x: Float[Tensor, "b *s d"], conv: nn.Conv2d) -> Float[Tensor, "b *t e"]:
        """Convolve with a 2x2 kernel and stride 2, inside each patch."""
        ...

    def depthwise(self, x: Float[Tensor, "b *s d"], conv: nn.Conv2d) -> Float[Tensor, "b *s d"]:
        """Convolve depthwise with a k x k kernel and stride 1, over the visible sites around."""
        ...

    def grn_mlp(self, x: Float[Tensor, "b *s d"], mlp: Layers) -> Float[Tensor, "b *s d"]:
        """Compute fc2(GRN(GELU(fc1(x)))), with GRN's norm over the visible sites of an image."""
        ...

    def sites(self, x: Float[Tensor, "b *s d"]) -> Float[Tensor, "b v s s d"]:
        """Return the sites of the visible patches, which are in raster order."""
        ...


def implementation(
    name: str,
) -> Callable[[Bool[Tensor, "b n"], tuple[int, int], int | None], Sparse]:
    """Find the implementation called `name`: `gathered`, `reference` or `minkowski`.

    Returns:
        What makes the operations on a batch out of its visible patches, the grid of patches (rows,
        columns), and the number of visible patches of an image, or None.

    Raises:
        ValueError: there is no such implementation, or MinkowskiEngine cannot be imported.
    """
    if name == "minkowski":
        try:
            from fcmae.sparse.minkowski import Minkowski
        except ImportError as error:
            raise ValueError(
                f"sparse='minkowski' needs MinkowskiEngine, which cannot be imported ({error});"
                " install it with scripts/install_minkowski.sh, or use sparse='gathered'"
            ) from error
        return Minkowski
    known = {"gathered": Gathered, "reference": Reference}
    if name not in known:
        raise ValueError(f"sparse={name!r} is none of {', '.join(known)}, minkowski")
    return known[name]
