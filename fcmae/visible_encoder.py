"""The contract of encoders of visible patches, whatever the network is."""

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float
from torch import Tensor, nn


class VisibleEncoder(nn.Module, ABC):
    """What a masked autoencoder asks of its encoder.

    Whatever the pixels of hidden patches are, they change no feature, no gradient, no statistic.
    """

    patch_size: int
    """Side of a patch in pixels: the encoder's total stride."""
    dim: int
    """Number of channels of a feature."""

    @abstractmethod
    def forward(
        self,
        images: Float[Tensor, "b c h w"],
        visible: Bool[Tensor, "b n"],
        count: int | None = None,
    ) -> Float[Tensor, "b v d"]:
        """Compute the features of the visible patches of images, in raster order.

        Args:
            images: images whose height and width are multiples of the patch side.
            visible: True where the encoder sees the patch; n patches in raster order, with the same
                number v of True in every row.
            count: the number v, if the caller knows it.

        Raises:
            ValueError: the sizes do not fit, or rows differ in their numbers of visible patches.
        """

    @abstractmethod
    def scales(
        self,
        images: Float[Tensor, "b c h w"],
        visible: Bool[Tensor, "b n"],
        count: int | None = None,
    ) -> list[Float[Tensor, "b v _ _ _"]]:
        """Compute the features of the visible patches on each scale, the finest one first.

        `forward` gives those of the last scale, where a patch is one site.

        Args:
            images: see `forward`.
            visible: see `forward`.
            count: see `forward`.

        Raises:
            ValueError: see `forward`.
        """
