"""The frozen backbone: converted weights, or the random initialisation they are compared with."""

import hashlib
from collections.abc import Callable

import torch
from torch import nn

from fcmae import FCMAE
from fcmae.weights.metadata import Metadata
from fcmae.weights.timm_models import as_timm, load_timm
from finetune.models.config import RandomConfig


def backbone(
    weights: str, random: RandomConfig, say: Callable[[str], object] = print
) -> tuple[nn.Module, Metadata]:
    """The timm model of `weights`, or for "none" the one that pretraining starts from.

    Args:
        weights: whatever `fcmae.weights.timm_models.load_timm` loads, or "none".
        random: the model of "none".
        say: prints a sentence about what was fetched or chosen.

    Raises:
        OSError: see `fcmae.weights.timm_models.load_timm`.
        ValueError: see the same, and `fcmae.FCMAE`.
    """
    if weights != "none":
        return load_timm(weights, say=say)
    start = FCMAE(
        name=random.name,
        image_size=random.image_size,
        in_chans=random.in_chans,
        stem_stride=random.stem_stride,
        generator=torch.Generator().manual_seed(random.seed),
    )
    metadata = random.metadata(step=0)
    return as_timm(start.encoder.state_dict(), metadata), metadata


def to_device(model: nn.Module, device: torch.device) -> None:
    """Move `model` to `device` and its convolutions to the fast layout, channels last."""
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def sha256_of(model: nn.Module, metadata: Metadata) -> str:
    """SHA-256, in hexadecimal, of all that decides the features of an image."""
    digest = hashlib.sha256(repr(metadata).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
