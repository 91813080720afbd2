"""Weights of timm's networks, whose names they never lose."""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

import timm
import torch
from torch import Tensor

from fcmae.architecture import Architecture
from fcmae.networks import PREFIX
from fcmae.weights.weight_names import listing

INSIDE = "encoder.net."  # in front of the names in a pretraining run
COUNTER = "num_batches_tracked"  # of batch norm, which averages do not have


@lru_cache
def shapes_of(architecture: Architecture) -> dict[str, torch.Size]:
    """List the shape of each tensor of a network without classifier, under timm's names."""
    with torch.device("meta"):
        net = timm.create_model(
            architecture.name.removeprefix(PREFIX), in_chans=architecture.in_chans, num_classes=0
        )
    return {name: tensor.shape for name, tensor in net.state_dict().items()}


def network_in(
    tensors: Mapping[str, Tensor], architecture: Architecture
) -> tuple[dict[str, Tensor], Counter[str]]:
    """Take the tensors of a network out of a checkpoint of ours, or of a file of its own.

    Args:
        tensors: all that the file holds.
        architecture: the network.

    Returns:
        The tensors under timm's names, and how many of each other part are left out.

    Raises:
        ValueError: tensors are missing or of another shape; the message lists them.
    """
    mine = {k.removeprefix(INSIDE): v for k, v in tensors.items() if k.startswith(INSIDE)}
    dropped = Counter[str]()
    if mine:
        dropped["decoder"] = len(tensors) - len(mine)
    else:
        mine = dict(tensors)
    shapes = shapes_of(architecture)
    missing = [name for name in shapes if name not in mine and not name.endswith(COUNTER)]
    misshapen = [name for name in shapes if name in mine and mine[name].shape != shapes[name]]
    for what, names in (("missing", missing), ("of another shape", misshapen)):
        if names:
            raise ValueError(f"no {architecture.name}: {len(names)} {what}{listing(names)}")
    dropped["classifier"] = len(mine.keys() - shapes.keys())
    start = {name: torch.tensor(0) for name in shapes if name.endswith(COUNTER)}
    kept = {name: mine.get(name, start.get(name)) for name in shapes}
    return {name: tensor for name, tensor in kept.items() if tensor is not None}, +dropped
