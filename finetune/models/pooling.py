"""Pooling: from the maps of a timm backbone to one vector an image.

`last` averages the last stage over positions. `stages` puts the averages of the last four levels
side by side: all stages of a ConvNeXt, the last blocks of a vision transformer.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fcmae.weights.timm_models import FeatureMaps, TimmModel
from finetune.models.config import Pool

LEVELS = 4


def pooled(model: nn.Module, images: Float[Tensor, "b c h w"], pool: Pool) -> Float[Tensor, "b d"]:
    """Features of normalised images: d is the width of the last stage, or the sum of all widths.

    The final norm of a ConvNet is left out, since FCMAE does not train it. What `forward_features`
    gives in another layout than [b, d, h, w] (tokens, channels last), timm's own head pools.

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
    last = model.forward_features(images)
    if isinstance(last, Tensor) and last.ndim == 4 and last.shape[1] == model.num_features:
        return last.mean((2, 3))
    return model.forward_head(last, pre_logits=True)
