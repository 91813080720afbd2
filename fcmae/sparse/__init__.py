"""Submanifold operations on the visible patches: one contract, one file per implementation.

A sparse convolution here has outputs at visible sites only, and a hidden site contributes exactly
zero to it (Graham and van der Maaten 2017; ConvNeXt V2 section 3). Everything else in the encoder
is pointwise along the last axis, so an implementation may lay the sites out as it likes.
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
    """The operations of one batch that need to know where the visible sites are.

    `x` is an activation in the implementation's own layout, `[b, *sites, d]`, channels last.
    """

    def stem(self, images: Float[Tensor, "b c h w"], conv: nn.Conv2d) -> Float[Tensor, "b *s d"]:
        """Convolve the visible patches, kernel = stride: no patch sees another."""
        ...

    def downsample(self, x: Float[Tensor, "b *s d"], conv: nn.Conv2d) -> Float[Tensor, "b *t e"]:
        """2x2 convolution of stride 2 inside each patch."""
        ...

    def depthwise(self, x: Float[Tensor, "b *s d"], conv: nn.Conv2d) -> Float[Tensor, "b *s d"]:
        """Submanifold k x k depthwise convolution of stride 1, the one that crosses patches."""
        ...

    def grn_mlp(self, x: Float[Tensor, "b *s d"], mlp: Layers) -> Float[Tensor, "b *s d"]:
        """fc2(GRN(GELU(fc1(x)))), GRN over an image's visible sites: see `fcmae.sparse.grn_mlp`."""
        ...

    def features(self, x: Float[Tensor, "b *s d"]) -> Float[Tensor, "b v d"]:
        """The visible patches in raster order, once a patch is one site."""
        ...


def implementation(
    name: str,
) -> Callable[[Bool[Tensor, "b n"], tuple[int, int], int | None], Sparse]:
    """The implementation called `name`: (visible, grid of patches, visible count) -> operations.

    Raises:
        ValueError: no such implementation, or MinkowskiEngine is chosen and cannot be imported.
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
