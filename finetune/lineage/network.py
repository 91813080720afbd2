"""A network of the first years in timm's manner: maps, a vector of each image, logits."""

from jaxtyping import Float
from torch import Tensor, nn


class Network(nn.Module):
    """Layers that make maps, layers that make a vector of them, and a linear one that classifies.

    It has what timm's models have, so that all programs on labels take it.

    Args:
        maps: the layers on maps.
        vector: the layers from the last map to one vector an image.
        width: number d of values of the vector.
        outputs: number k of values of the head; 0 makes none.
    """

    def __init__(
        self, maps: nn.Sequential, vector: nn.Sequential, width: int, outputs: int
    ) -> None:
        super().__init__()
        self.maps = maps
        self.vector = vector
        self.num_features = width
        self.head = nn.Linear(width, outputs) if outputs else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m i j"]:
        """Compute the last map, whose sites see ever larger parts of the image."""
        return self.maps(x)

    def forward_head(
        self, x: Float[Tensor, "b m i j"], pre_logits: bool = False
    ) -> Float[Tensor, "b _"]:
        """Compute logits of the last map, or the vector before them, with `pre_logits`."""
        vector = self.vector(x)
        return vector if pre_logits else self.head(vector)

    def get_classifier(self) -> nn.Module:
        """Return the layer that computes the logits."""
        return self.head

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Tell which parameters belong to which layer, for `timm.models.group_parameters`.

        Args:
            coarse: count all layers on maps as one, and all layers on vectors.
        """
        if coarse:
            return {"maps": "^maps", "vector": "^vector"}
        return {"maps": r"^maps\.(\d+)", "vector": r"^vector\.(\d+)"}
