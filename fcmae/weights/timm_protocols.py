"""What timm's image models have in addition to other modules, as protocols."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class TimmModel(Protocol):
    """What timm's image models have in addition to other modules."""

    num_features: int

    def forward_features(self, x: Tensor, /) -> Tensor:
        """Compute the maps or tokens before pooling and head."""
        ...

    def forward_head(self, x: Tensor, /, *, pre_logits: bool = False) -> Tensor:
        """Compute logits from the output of `forward_features`, or pool it, with `pre_logits`."""
        ...

    def get_classifier(self) -> nn.Module:
        """Return the layer that computes the logits."""
        ...

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Tell which parameters belong to which layer, for `timm.models.group_parameters`."""
        ...


@runtime_checkable
class FeatureMaps(Protocol):
    """What those of timm's models have that return the maps of several levels."""

    feature_info: Sequence[Mapping[str, Any]]

    def forward_intermediates(
        self, x: Tensor, /, indices: int | list[int], *, intermediates_only: bool
    ) -> list[Tensor]:
        """Compute maps `[b, c, h, w]` of the levels at `indices`, or of that many last levels."""
        ...

    def prune_intermediate_layers(
        self, indices: int | list[int], *, prune_norm: bool = False
    ) -> list[int]:
        """Remove the layers after these levels, and return the indices of the levels."""
        ...


@runtime_checkable
class NoWeightDecay(Protocol):
    """What those of timm's models have that name parameters without weight decay."""

    def no_weight_decay(self) -> set[str]:
        """Name such parameters, as position embeddings; biases and norms are not among them."""
        ...
