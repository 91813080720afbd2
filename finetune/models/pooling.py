"""Pooling: from the maps of a timm backbone to one vector an image.

`last` averages the last stage over positions; `grid2` and `grid3` average 2 x 2 and 3 x 3 cells of
it, which tell where things are. `stages` puts the averages of the last four levels side by side:
all stages of a ConvNeXt, the last blocks of a vision transformer.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fcmae.collapse import cosine_distance
from fcmae.weights import pooling
from fcmae.weights.grids import map_of
from fcmae.weights.timm_protocols import FeatureMaps, TimmModel
from finetune.models.config import Pool

LEVELS = 4


def pooled(model: nn.Module, images: Float[Tensor, "b c h w"], pool: Pool) -> Float[Tensor, "b d"]:
    """Features of normalised images, whose number d is that of the pooled values.

    It is the width of the last stage, that width times four or nine, or the sum of all widths.

    Raises:
        ValueError: the model has fewer than four levels, or see `fcmae.weights.pooling.pooled`.
    """
    if pool == "stages":
        return means_of_levels(levels_of(model, images))
    assert isinstance(model, TimmModel)
    return pooling.pooled(model, model.forward_features(images), pool)


def pooled_with_distance(
    model: nn.Module, images: Float[Tensor, "b c h w"], pool: Pool
) -> Float[Tensor, "b d1"]:
    """Features as `pooled` gives them, and behind them the distance of the last map's channels.

    It is the feature distance of ConvNeXt V2, section 3, between all pairs of channels over the
    positions of an image, there taken inside blocks, here of the map that all encoders have: see
    `fcmae.collapse`.

    Raises:
        ValueError: see `pooled` and `fcmae.weights.grids.map_of`.
    """
    if pool == "stages":
        levels = levels_of(model, images)
        rows, last = means_of_levels(levels), levels[-1]
    else:
        assert isinstance(model, TimmModel)
        last = model.forward_features(images)
        rows = pooling.pooled(model, last, pool)
        last = map_of(model, last)
    distance = cosine_distance(rearrange(last, "b d h w -> b (h w) d"))
    return torch.cat([rows, distance[:, None]], dim=1)


def levels_of(model: nn.Module, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ _ _"]]:
    """The maps of the last four levels.

    Raises:
        ValueError: the model has fewer.
    """
    assert isinstance(model, FeatureMaps)
    levels = len(model.feature_info)
    if levels < LEVELS:
        raise ValueError(
            f"pool=stages takes {LEVELS} levels of maps and {type(model).__name__} has"
            f" {levels}; take --pool last"
        )
    return model.forward_intermediates(images, indices=LEVELS, intermediates_only=True)


def means_of_levels(levels: list[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b d"]:
    """The means of maps over their positions, side by side."""
    return torch.cat([level.mean((2, 3)) for level in levels], dim=1)
