"""Encoder weights under the official names, as the code of ConvNeXt V2's authors loads them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fcmae.run.files import replacing
from fcmae.weights.metadata import Metadata, header_for
from fcmae.weights.weight_names import complete, official_names


def to_official(tensors: Mapping[str, Tensor], metadata: Metadata) -> dict[str, Tensor]:
    """An encoder's tensors under the official dense names and in their shapes, with a final norm.

    Args:
        tensors: under our names, as an encoder's state dict or `weight_names.canonical` has them.
        metadata: of these weights.
    """
    named = official_names(complete(tensors), metadata.architecture)
    return {name: tensor.contiguous() for name, tensor in named.items()}


def save_official(
    path: Path, tensors: dict[str, Tensor], metadata: Metadata, extra_header: Mapping[str, str]
) -> None:
    """Write official weights under the key `model`, with the rest beside it."""
    with replacing(path) as partial:
        torch.save({"model": tensors, **header_for(metadata, extra_header)}, partial)
