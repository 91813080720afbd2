"""Encoder weights under the official names, for the code of ConvNeXt V2's authors."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fcmae.run.files import replacing
from fcmae.weights.metadata import Metadata, header_for
from fcmae.weights.weight_names import complete, official_names


def to_official(tensors: Mapping[str, Tensor], metadata: Metadata) -> dict[str, Tensor]:
    """Rename an encoder's tensors as the official dense model has them, with a final norm.

    Args:
        tensors: the weights under our names, such as an encoder's state dict.
        metadata: their metadata.
    """
    named = official_names(complete(tensors), metadata.architecture)
    return {name: tensor.contiguous() for name, tensor in named.items()}


def save_official(
    path: Path, tensors: dict[str, Tensor], metadata: Metadata, extra_header: Mapping[str, str]
) -> None:
    """Write a PyTorch file with official weights under the key `model`, and the header next to it.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as partial:
        torch.save({"model": tensors, **header_for(metadata, extra_header)}, partial)
