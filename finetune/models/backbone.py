"""The frozen backbone: converted weights, or the random initialisation they are compared with."""

import hashlib
from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import nn

from fcmae.encoders import make_encoder
from fcmae.run.waiting import waiting
from fcmae.weights.files import read_weights
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
        ValueError: see the same, and `fcmae.architecture.Architecture.check`.
    """
    if weights != "none":
        with waiting("loading weights"):
            return load_timm(weights, say=say)
    metadata = metadata_of(random, step=0)
    metadata.architecture.check()
    generator = torch.Generator().manual_seed(random.seed)
    start = make_encoder(metadata.architecture, "gathered", generator)
    return as_timm(start.state_dict(), metadata), metadata


def metadata_of(random: RandomConfig, step: int | None) -> Metadata:
    """What a file of such weights would say of them, `random.like` being read where it is given.

    Args:
        random: the model.
        step: of pretraining: 0 for the random start, None where it is not known.

    Raises:
        OSError: `random.like` cannot be read.
        ValueError: it tells nothing of its images, or what it tells is given beside it.
    """
    if random.like is None:
        return random.metadata(step)
    told = (field for field in fields(random) if field.name not in ("like", "seed"))
    beside = [f"--random.{f.name}" for f in told if getattr(random, f.name) != f.default]
    if beside:
        raise ValueError(
            f"random.like={random.like} tells it itself: leave {', '.join(beside)} out"
        )
    told = read_weights(random.like).told_metadata(random.like)
    return replace(told.without_classifier, step=step)


def to_device(model: nn.Module, device: torch.device) -> None:
    """Move `model` to `device` and its convolutions to the fast layout, channels last."""
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def sha256_of(model: nn.Module, metadata: Metadata) -> str:
    """SHA-256, in hexadecimal, of all that decides the features of an image."""
    digest = hashlib.sha256(repr(metadata).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
