"""The frozen backbone: converted weights, or the random initialisation they are compared with."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from data.transforms import IMAGENET_MEAN, IMAGENET_STD
from fcmae import FCMAE
from fcmae.convert import Metadata, as_timm, load_timm, read_metadata
from fcmae.model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class RandomConfig:
    """The backbone of `--weights none`; converted weights bring all of this in their header."""

    name: str = "convnextv2_atto"
    """As in pretraining."""
    image_size: int | tuple[int, int] = 224
    """Side, or height and width, in pixels."""
    in_chans: int = 3
    """Channels of the images."""
    stem_stride: int = 4
    """4, 2 or 1."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Mean of each channel on the scale 0 to 1, or one value for all."""
    std: tuple[float, ...] = IMAGENET_STD
    """Standard deviation of each channel, or one value for all."""
    seed: int = 0
    """Of the initialisation."""


def backbone(weights: str, random: RandomConfig) -> tuple[nn.Module, Metadata]:
    """The timm model of converted `weights`, or for "none" the one that pretraining starts from.

    Raises:
        OSError, ValueError: see `fcmae.convert.load_timm`, `fcmae.FCMAE`.
    """
    if weights != "none":
        return load_timm(Path(weights)), read_metadata(Path(weights))
    config = ModelConfig(
        name=random.name,
        image_size=random.image_size,
        in_chans=random.in_chans,
        stem_stride=random.stem_stride,
    )
    start = FCMAE(**vars(config), generator=torch.Generator().manual_seed(random.seed))
    metadata = of_flags(random, random.name, step=0)
    return as_timm(start.state_dict(), metadata), metadata


def of_flags(random: RandomConfig, model: str, step: int | None) -> Metadata:
    """The metadata of a backbone that no file tells of."""
    size = random.image_size
    return Metadata(
        model=model,
        image_size=(size, size) if isinstance(size, int) else size,
        in_chans=random.in_chans,
        mean=random.mean,
        std=random.std,
        stem_stride=random.stem_stride,
        step=step,
    )


def sha256_of(model: nn.Module, metadata: Metadata) -> str:
    """Of all that decides the features of an image, in hexadecimal."""
    digest = hashlib.sha256(repr(metadata).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
