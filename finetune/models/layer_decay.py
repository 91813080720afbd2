"""Parameter groups of fine-tuning: learning rates that decay towards the stem, weight decay.

A parameter in layer i of L + 1 learns at decay^(L - i) times the learning rate (Clark et al., ICLR
2020; Bao et al., ICLR 2022). ConvNeXt V2 counts every block as a layer in the small models, and in
the large ones groups of three blocks: stem, stage 0, stage 1, the threes of stage 2, stage 3, head.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, cast

from timm.models import ConvNeXt, group_parameters
from torch import nn

from fcmae.weights.timm_protocols import NoWeightDecay, TimmModel
from finetune.models.config import By
from finetune.models.segmenter import Segmenter


def layers(model: nn.Module, by: By) -> dict[str, int]:
    """The layer of each parameter, 0 at the stem, as timm counts them or in groups of three.

    The head of a segmenter is one layer, the last.

    Raises:
        ValueError: groups, and another model than a ConvNeXt.
    """
    if isinstance(model, Segmenter):
        below = layers(model.backbone, by)
        head = dict.fromkeys(dict(model.head.named_parameters()), max(below.values()) + 1)
        parts = (("backbone", below), ("head", head))
        return {f"{part}.{name}": layer for part, of in parts for name, layer in of.items()}
    if by == "layer":
        assert isinstance(model, TimmModel)
        layer_of = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
        return cast("dict[str, int]", layer_of)
    if not isinstance(model, ConvNeXt):
        raise ValueError(
            "optim.layer_decay_by=group is for ConvNeXts: take optim.layer_decay_by=layer"
        )
    blocks = len(cast("nn.Sequential", model.get_submodule("stages.2.blocks")))
    last = 4 + (blocks - 1) // 3  # of stage 3
    return {name: group_of(name, last) for name, _ in model.named_parameters()}


def below_head(model: nn.Module, by: By) -> list[nn.Parameter]:
    """The parameters below the last layer, which is the head.

    Raises:
        ValueError: see `layers`.
    """
    layer_of = layers(model, by)
    top = max(layer_of.values())
    return [parameter for name, parameter in model.named_parameters() if layer_of[name] < top]


def group_of(name: str, last: int) -> int:
    """The group of a ConvNeXt's parameter, if stage 3 is group `last`."""
    stage, block = (
        re.search(pattern, name) for pattern in (r"^stages\.(\d)\.", r"\.blocks\.(\d+)\.")
    )
    if stage is None:
        return 0 if name.startswith("stem") else last + 1
    if stage[1] == "3":
        return last
    threes = int(block[1]) // 3 if block and stage[1] == "2" else 0
    return int(stage[1]) + 1 + threes


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float, by: By
) -> list[dict[str, Any]]:
    """Groups of AdamW, `scale` being the part of the learning rate that each gets.

    Biases, norms, GRN and LayerScale, which have one dimension, do not decay, nor what timm's
    `no_weight_decay()` names, as a ViT's position embedding.

    Raises:
        ValueError: a layer decay outside (0, 1]; see `layers`.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"optim.layer_decay={layer_decay} must lie in (0, 1]; 1 is none")
    layer_of: Mapping[str, int] = layers(model, by)
    top = max(layer_of.values())
    skipped = model.no_weight_decay() if isinstance(model, NoWeightDecay) else ()
    groups = defaultdict[tuple[int, bool], list[nn.Parameter]](list)
    for name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and name not in skipped
        groups[layer_of[name], decays].append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "scale": layer_decay ** (top - layer),
        }
        for (layer, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
