"""Small models with weights that matter, and what is saved of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from fcmae import FCMAE
from fcmae.convnexts import Size
from fcmae.decoders.plain import Decoder
from fcmae.encoder import Encoder
from fcmae.run import checkpoint
from fcmae.run.checkpoint import TrainState
from fcmae.weights.metadata import Metadata
from finetune.models.config import RandomConfig
from tests.support.generators import generator

# The random initialisation of most tests, in Python and on a command line
TINY = RandomConfig(image_size=16, stem_stride=1, mean=(0.5,), std=(0.25,))
TINY_FLAGS = ("--random.image_size", "16", "--random.stem_stride", "1")
TINY_FLAGS += ("--random.mean", "0.5", "--random.std", "0.25")


def trained(name: str, stem_stride: int, in_chans: int, own: Size | None = None) -> FCMAE:
    """A model none of whose tensors is at its initial value, of the size of its name or its own."""
    model = FCMAE(
        name=name,
        image_size=(16 * stem_stride, 24 * stem_stride),
        in_chans=in_chans,
        stem_stride=stem_stride,
        depths=own and own.depths,
        widths=own and own.widths,
        decoder_dim=16,
        generator=generator(0),
    )
    noise = generator(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=noise)
    return model


def convnext_of(model: FCMAE) -> Encoder:
    """The encoder of a model that has a ConvNeXt."""
    assert isinstance(model.encoder, Encoder)
    return model.encoder


def plain_of(decoder: nn.Module | None) -> Decoder:
    """A decoder that is FCMAE's."""
    assert isinstance(decoder, Decoder)
    return decoder


def after_a_step(decoder_dim: int = 32) -> tuple[FCMAE, torch.optim.Optimizer]:
    """A small model and its optimiser, which has moments."""
    model = FCMAE(image_size=32, stem_stride=1, decoder_dim=decoder_dim, generator=generator(0))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    optimizer.step()
    return model, optimizer


def metadata_of(model: FCMAE, name: str, stem_stride: int, in_chans: int) -> Metadata:
    """What converted weights of a `trained` model say of themselves, of step 7."""
    return Metadata(
        model=name,
        image_size=model.image_size,
        in_chans=in_chans,
        mean=(0.5,),
        std=(0.25,),
        stem_stride=stem_stride,
        step=7,
    )


def saved_run(
    run: Path,
    model: FCMAE,
    *,
    name: str,
    stem_stride: int,
    in_chans: int,
    step: int = 7,
    reading: Mapping[str, Any] | None = None,
    own: Size | None = None,
) -> Path:
    """A checkpoint in a run directory, with what its config says of the reading of images."""
    size = list(model.image_size)
    project = model.decoder.get_submodule("project")
    assert isinstance(project, nn.Linear)
    config = {
        "model": {
            "name": name,
            "image_size": size,
            "in_chans": in_chans,
            "stem_stride": stem_stride,
            "decoder_dim": project.out_features,
            **({"depths": list(own.depths), "widths": list(own.widths)} if own else {}),
        },
        "data": {"mean": [0.5], "std": [0.25], **(reading or {})},
    }
    optimizer = torch.optim.AdamW(model.parameters())
    files = checkpoint.snapshot(model, optimizer)
    return checkpoint.save(run, TrainState(step, 8 * step), files, json.dumps(config))


def timm_features(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The last feature map of a timm model."""
    return cast("Any", model.eval()).forward_features(images)
