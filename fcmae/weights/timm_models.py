"""Encoder weights as timm's models, and in files that timm loads."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from fcmae.run.files import replacing
from fcmae.weights.convmaes import model_with
from fcmae.weights.files import read_weights
from fcmae.weights.metadata import Metadata, header_for
from fcmae.weights.networks import bare, classes_of, shapes_of
from fcmae.weights.saving import save_tensors
from fcmae.weights.timm_creation import create_timm
from fcmae.weights.vits import with_positions
from fcmae.weights.weight_names import CLASSIFIER, classifier_of, complete, count_classes


def to_timm(tensors: Mapping[str, Tensor], metadata: Metadata) -> dict[str, Tensor]:
    """Bring an encoder's tensors into timm's shapes, with a final norm.

    Args:
        tensors: the weights under our names, such as an encoder's state dict.
        metadata: their metadata.
    """
    if metadata.architecture.of_timm:
        return as_timm(tensors, metadata).state_dict()
    if metadata.architecture.is_convmae:
        return {name: tensor.contiguous() for name, tensor in tensors.items()}
    whole = with_positions(tensors, metadata.architecture)
    return in_shapes(shapes_in_timm(metadata, count_classes(tensors)), whole)


@lru_cache
def shapes_in_timm(metadata: Metadata, num_classes: int) -> dict[str, torch.Size]:
    """List the shape of each tensor of the timm model that weights belong to.

    Args:
        metadata: the metadata of the weights.
        num_classes: number of classes; 0 makes no classifier.
    """
    with torch.device("meta"):
        model = create_timm(metadata, num_classes)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def as_timm(tensors: Mapping[str, Tensor], metadata: Metadata) -> nn.Module:
    """Make the timm model with an encoder's weights, and with their classifier if there is one.

    What a network of timm has behind its last map starts as timm starts it, unless it is given.

    Args:
        tensors: the weights under our names, such as an encoder's state dict.
        metadata: their metadata.
    """
    if metadata.architecture.of_timm:
        own = bare(tensors)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same each time
            model = create_timm(metadata, classes_of(own, metadata.architecture))
        model.load_state_dict(model.state_dict() | own)
        return model
    if metadata.architecture.is_convmae:
        return model_with(tensors, metadata, count_classes(tensors))
    model = create_timm(metadata, count_classes(tensors))
    model.load_state_dict(in_shapes_of(model, with_positions(tensors, metadata.architecture)))
    return model


def in_shapes_of(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring tensors into the shapes of a timm model, which may hold 1x1 convolutions."""
    return in_shapes({name: own.shape for name, own in model.state_dict().items()}, tensors)


def in_shapes(shapes: Mapping[str, torch.Size], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring tensors into the shapes of a timm model's tensors of the same names."""
    source = complete(tensors)
    assert source.keys() == shapes.keys(), sorted(source.keys() ^ shapes.keys())
    return {k: v.reshape(shapes[k]).contiguous() for k, v in source.items()}


def save_timm(
    path: Path,
    tensors: dict[str, Tensor],
    metadata: Metadata,
    extra_header: Mapping[str, str] | None = None,
) -> None:
    """Write weights in timm's shapes as a safetensors file.

    Args:
        path: the file.
        tensors: the weights, as `to_timm` makes them.
        metadata: their metadata, for the header.
        extra_header: further entries of the header.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as partial:
        save_tensors(partial, tensors, header_for(metadata, extra_header or {}))


def load_timm(
    source: str | Path,
    num_classes: int = 0,
    drop_path: float = 0.0,
    say: Callable[[str], object] = print,
) -> tuple[nn.Module, Metadata]:
    """Load weights into a timm model with a fresh classifier.

    A classifier in the file is left out; `timm.create_model(model, num_classes=...,
    checkpoint_path=path)` loads that of a converted file.

    Args:
        source: whatever `fcmae.weights.files.read_weights` reads and that tells image size, mean
            and standard deviation.
        num_classes: number of classes; 0 makes no classifier.
        drop_path: the largest rate of stochastic depth, that of the last block.
        say: prints a sentence about what was fetched, such as its licence, or chosen.

    Returns:
        The model, and the metadata of the weights.

    Raises:
        OSError: the source cannot be read or fetched.
        ValueError: its tensors are not those of one whole encoder, or it lacks metadata.
    """
    weights = read_weights(source)
    metadata = weights.told_metadata(source).without_classifier
    for note in weights.notes:
        say(note)
    if metadata.architecture.is_convmae:
        encoder = {k: v for k, v in weights.tensors.items() if not k.startswith(CLASSIFIER)}
        return model_with(encoder, metadata, num_classes, drop_path), metadata
    model = create_timm(metadata, num_classes, drop_path)
    if metadata.architecture.of_timm:
        names = shapes_of(metadata.architecture)
        network = {k: v for k, v in weights.tensors.items() if k in names}
        model.load_state_dict(model.state_dict() | network)
        return model, metadata
    head = classifier_of(metadata.architecture)
    kept = {k: v for k, v in weights.tensors.items() if not k.startswith(head)}
    fresh = {k: v for k, v in model.state_dict().items() if k.startswith(head)}
    model.load_state_dict(in_shapes_of(model, kept | fresh))
    return model, metadata
