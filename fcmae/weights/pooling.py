"""Pooling: from the last map or the tokens of a timm model to one feature an image."""

from jaxtyping import Float
from torch import Tensor

from fcmae.weights.grids import cells, map_of
from fcmae.weights.metadata import SIDES, HeadPool
from fcmae.weights.timm_protocols import TimmModel


def pooled(
    model: TimmModel, last: Float[Tensor, "b ..."], pool: HeadPool = "last"
) -> Float[Tensor, "b d"]:
    """Pool what `forward_features` gives to one feature an image.

    It is the mean over the positions of maps [b, d, h, w]: the final norm of a ConvNet, which FCMAE
    does not train, is left out. Tokens, and channels that are last, are pooled by timm's own head.
    With `pool` grid2 or grid3, it is the means of 2 x 2 or 3 x 3 cells of the map, the cells of a
    channel next to each other: of a ConvNet's map without the final norm, and of a vision
    transformer's tokens behind it.

    Args:
        model: a model of timm.
        last: its last maps or tokens.
        pool: what is pooled.

    Raises:
        ValueError: see `fcmae.weights.grids.map_of` and `cells`.
    """
    if pool != "last":
        return cells(map_of(model, last), SIDES[pool]).flatten(1)
    if last.ndim == 4 and last.shape[1] == model.num_features:
        return last.mean((2, 3))
    return model.forward_head(last, pre_logits=True)
