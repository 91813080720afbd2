"""Pooling: from the maps of a timm backbone to one vector an image.

`last` averages the last stage over positions. `stages` puts the averages of the last four levels
side by side: all stages of a ConvNeXt, the last blocks of a vision transformer.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fcmae.weights import timm_models
from fcmae.weights.timm_models import FeatureMaps, TimmModel
from finetune.models.config import Pool

LEVELS = 4


def pooled(model: nn.Module, images: Float[Tensor, "b c h w"], pool: Pool) -> Float[Tensor, "b d"]:
    """Features of normalised images: d is the width of the last stage, or the sum of all widths.

    Raises:
        ValueError: the model has fewer than four levels.
    """
    if pool == "stages":
        assert isinstance(model, FeatureMaps)
        levels = len(model.feature_info)
        if levels < LEVELS:
            raise ValueError(
                f"pool=stages takes {LEVELS} levels of maps and {type(model).__name__} has"
                f" {levels}; take --pool last"
            )
        maps = model.forward_intermediates(images, indices=LEVELS, intermediates_only=True)
        return torch.cat([level.mean((2, 3)) for level in maps], dim=1)
    assert isinstance(model, TimmModel)
    return timm_models.pooled(model, model.forward_features(images))
