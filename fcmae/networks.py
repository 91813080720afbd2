"""What is to be known of timm's ConvNets before one is made: their strides and widths."""

import difflib
from dataclasses import dataclass
from functools import lru_cache

PREFIX = "timm:"


@dataclass(frozen=True)
class Network:
    """Facts of a ConvNet of timm."""

    stride: int
    """Pixels between neighbouring sites of its last map: the side of a patch."""
    dim: int
    """Number of channels of its last map."""
    widths: tuple[int, ...]
    """Number of channels of the maps of its levels, the first ones first."""


@lru_cache
def network(name: str) -> Network:
    """Look up one of timm's ConvNets, without its weights.

    Args:
        name: timm's name of it, such as `resnet50`.

    Raises:
        ValueError: timm has no such network, or it has no maps of features, or their stride is no
            whole number of pixels.
    """
    import timm  # seconds, and most runs need none of it
    import torch

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1)
        hint = f"; did you mean {PREFIX}{near[0]}?" if near else ""
        raise ValueError(f"model name={PREFIX + name!r}: timm has no such network{hint}")
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
        side = model.pretrained_cfg["input_size"][1]
        maps = model.forward_features(torch.empty(2, 3, side, side))
    if maps.ndim != 4 or maps.shape[1] != model.num_features:
        raise ValueError(
            f"model name={PREFIX + name!r} has no maps of features [b, c, h, w], as a ConvNet has:"
            " take one of timm's ConvNets, such as timm:resnet18, or mae_vit_tiny"
        )
    stride, rest = divmod(side, maps.shape[2])
    if rest:
        raise ValueError(
            f"model name={PREFIX + name!r} makes {maps.shape[2]} sites of {side} pixels, so that"
            " patches of whole pixels do not tile its maps: take a network whose convolutions pad"
        )
    widths = tuple(info["num_chs"] for info in model.feature_info)
    return Network(stride=stride, dim=model.num_features, widths=widths)
