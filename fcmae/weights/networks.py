"""Weights of timm's networks, whose names they never lose."""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from fcmae.architecture import Architecture
from fcmae.networks import PREFIX, make_network
from fcmae.weights.metadata import HeadPool
from fcmae.weights.recognition import dropped_part, on_cells
from fcmae.weights.weight_names import listing

INSIDE = "net."  # in front of the names in our encoder, behind `encoder.` in a pretraining run
COUNTER = "num_batches_tracked"  # of batch norm, which averages do not have


@lru_cache
def shapes_of(architecture: Architecture, num_classes: int = 0) -> dict[str, torch.Size]:
    """List the shape of each tensor of a network, under timm's names.

    Args:
        architecture: the network.
        num_classes: number of classes; 0 for the network without classifier.
    """
    with torch.device("meta"):
        net = make_network(
            architecture.name.removeprefix(PREFIX),
            in_chans=architecture.in_chans,
            num_classes=num_classes,
        )
    return {name: tensor.shape for name, tensor in net.state_dict().items()}


def network_in(
    tensors: Mapping[str, Tensor],
    architecture: Architecture,
    num_classes: int = 0,
    pool: HeadPool = "last",
) -> tuple[dict[str, Tensor], Counter[str]]:
    """Take the tensors of a network out of a checkpoint of ours, or of a file of its own.

    What the network has behind its last map may be missing, and is so in checkpoints.

    Args:
        tensors: all that the file holds.
        architecture: the network.
        num_classes: number of classes of the classifier that is kept; 0 leaves it out.
        pool: what the classifier takes.

    Returns:
        The tensors under timm's names, and how many of each other part are left out.

    Raises:
        ValueError: tensors are missing or of another shape; the message lists them.
    """
    inside = f"encoder.{INSIDE}"
    mine = {k.removeprefix(inside): v for k, v in tensors.items() if k.startswith(inside)}
    dropped = Counter[str]()
    if mine:
        others = (name for name in tensors if not name.startswith(inside))
        dropped.update(dropped_part(name) or "decoder" for name in others)
    else:
        mine = dict(tensors)
    shapes = dict(shapes_of(architecture, num_classes))
    for name in shapes.keys() - shapes_of(architecture).keys():
        if len(shapes[name]) == 2:
            shapes[name] = on_cells(shapes[name], pool)
    behind = architecture.network.behind
    missing = [
        name
        for name in shapes.keys() - mine.keys()
        if not name.endswith(COUNTER) and name.split(".")[0] not in behind
    ]
    misshapen = [name for name in shapes if name in mine and mine[name].shape != shapes[name]]
    for what, names in (("missing", missing), ("of another shape", misshapen)):
        if names:
            raise ValueError(
                f"no {architecture.name}: {len(names)} {what}{listing(sorted(names))}; of an ONNX,"
                " whose convolutions may have taken batch norms in, take the file it was made of"
            )
    dropped["classifier"] = len(mine.keys() - shapes.keys())
    return {name: mine[name] for name in shapes if name in mine}, +dropped


def classes_of(tensors: Mapping[str, Tensor], architecture: Architecture) -> int:
    """Count the classes of a network's classifier, whose tensors are its last; 0 without one.

    Args:
        tensors: those of the network, under timm's names.
        architecture: the network.
    """
    beyond = [tensor for name, tensor in tensors.items() if name not in shapes_of(architecture)]
    return len(beyond[-1]) if beyond else 0


def bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the tensors of an encoder's state dict, or of a network, as timm does."""
    return {name.removeprefix(INSIDE): tensor for name, tensor in tensors.items()}
