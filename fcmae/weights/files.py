"""Reading encoder weights, out of our checkpoints and out of files in timm's or official names.

`load_encoder` lets a run start from such weights.
"""

import argparse
import json
import re
import struct
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from fcmae.architecture import Architecture, sides_of
from fcmae.encoder import Encoder
from fcmae.run import checkpoint
from fcmae.weights import weight_names
from fcmae.weights.metadata import HEADER, Metadata, class_names
from fcmae.weights.weight_names import CLASSIFIER, FINAL_NORM, count_classes

# what torch.load raises for files that are cut short, no pickle, or refused
DAMAGED = (UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, struct.error)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of an encoder, and what their file tells about them."""

    tensors: dict[str, Tensor]
    """The encoder's tensors under our names, with a final norm and a classifier, if any."""
    architecture: Architecture
    metadata: Metadata | None
    """The metadata in the file, or None: image size, mean and std are not known then."""
    classes: tuple[str, ...]
    """Names of the classifier's classes, or their numbers if the file does not name them; empty
    without a classifier."""
    extra_header: dict[str, str]
    """What else the header of our file holds, such as the classes and the task of fine-tuning."""
    dropped: int
    """Number of tensors of a decoder, which were left out."""


def find_checkpoint(source: Path) -> Path:
    """Find the step directory that `source` names.

    Args:
        source: a run, whose newest step is taken; a step directory; or a weights file in one.

    Raises:
        FileNotFoundError: `source` holds no checkpoint.
    """
    step = source.parent if source.name in (checkpoint.MODEL, checkpoint.EMA) else source
    step = step if (step / checkpoint.MODEL).is_file() else checkpoint.latest(step)
    if step is None:
        raise FileNotFoundError(
            f"{source} holds no checkpoint; give a run, a step_* directory or the"
            f" {checkpoint.MODEL} in one, or a .safetensors or .pt file"
        )
    return step


def read_weights(source: Path) -> Weights:
    """Read encoder weights.

    Args:
        source: a checkpoint of ours (a run, a step_* directory, the model.safetensors or the
            ema.safetensors in one), or a .safetensors, .pt or .pth file in timm's or the official
            names.

    Raises:
        OSError: a file cannot be read.
        ValueError: the file is damaged, or its tensors are not those of one whole encoder.
    """
    # timm's hub calls its files model.safetensors, too; only a checkpoint has a state next to it
    has_state = (source.parent / checkpoint.STATE).is_file()
    in_checkpoint = has_state and source.name in (checkpoint.MODEL, checkpoint.EMA)
    if source.is_file() and not in_checkpoint:
        path = source
        tensors, metadata, extra_header = read_file(source)
    else:
        path = find_checkpoint(source)
        averaged = source.name == checkpoint.EMA
        tensors, metadata = read_checkpoint(path, checkpoint.EMA if averaged else checkpoint.MODEL)
        extra_header = {}
    try:
        known = metadata.architecture if metadata is not None else weight_names.infer(tensors)
        kept = weight_names.canonical(tensors, known)
        classes = class_names(extra_header, count_classes(kept))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Weights(
        tensors=kept,
        architecture=known,
        metadata=metadata,
        classes=classes,
        extra_header=extra_header,
        dropped=len(tensors) - len(kept),
    )


def read_checkpoint(step: Path, file: str = checkpoint.MODEL) -> tuple[dict[str, Tensor], Metadata]:
    """Read the tensors in a file of a step directory, and the metadata out of its config.

    Raises:
        OSError: a file cannot be read.
        ValueError: the checkpoint is damaged.
    """
    try:
        config: dict[str, Any] = yaml.safe_load((step / checkpoint.CONFIG).read_text())
        state: dict[str, int] = json.loads((step / checkpoint.STATE).read_text())
        tensors = load_file(step / file)
    except (SafetensorError, yaml.YAMLError, ValueError) as error:
        raise ValueError(f"checkpoint {step} is damaged: {error}") from error
    tree: dict[str, Any] = config["model"]
    model = {field.name: tree[field.name] for field in fields(Architecture)}
    model["image_size"] = sides_of(model["image_size"])  # YAML has lists
    architecture = Architecture(**model)
    mean, std = (tuple(config["data"][name]) for name in ("mean", "std"))
    return tensors, Metadata.of(architecture, mean=mean, std=std, step=state["step"])


def read_file(path: Path) -> tuple[dict[str, Tensor], Metadata | None, dict[str, str]]:
    """Read a .safetensors, .pt or .pth file.

    Returns:
        The tensors, the metadata if our header is there, and what else that header holds.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is of another kind or damaged, or its metadata are.
    """
    if path.suffix == ".safetensors":
        try:
            tensors, header = read_safetensors(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is no safetensors file: {error}") from error
    elif path.suffix in (".pt", ".pth"):
        tensors, header = read_pt(path)
    else:
        raise ValueError(
            f"{path} ends in {path.suffix!r}; weights are read from .safetensors, .pt, .pth"
        )
    if HEADER not in header:  # not our file: its other keys may mean anything
        return tensors, None, {}
    try:
        metadata = Metadata.of_json(header[HEADER])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: the metadata under {HEADER!r} are damaged: {error}") from error
    return tensors, metadata, extra_part(header)


def extra_part(header: Mapping[str, str]) -> dict[str, str]:
    """Take what a header of our files holds in addition to the metadata."""
    return {key: value for key, value in header.items() if key not in (HEADER, "format")}


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the header of a safetensors file; without a header, it is empty.

    Raises:
        OSError: the file cannot be read.
        SafetensorError: the file is damaged.
    """
    with cast("Any", safe_open(path, framework="pt")) as file:
        return tensors_of(file), file.metadata() or {}


def tensors_of(file: Any) -> dict[str, Tensor]:
    """Read all tensors of an open safetensors file."""
    return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping


@contextmanager
def open_converted(path: Path) -> Generator[tuple[Any, Metadata, dict[str, str]]]:
    """Open a file of weights that were converted to timm's names.

    Yields:
        The open file, its metadata, and what else its header holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file was not written by this project.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"weights {path} do not exist; make them with python -m fcmae.convert"
        )
    try:
        file: Any = safe_open(path, framework="pt")
        header: dict[str, str] = file.metadata() or {}
        metadata = Metadata.of_json(header[HEADER])
    except (SafetensorError, KeyError) as error:
        raise ValueError(
            f"{path} has no header of converted weights ({error}); make it with"
            " python -m fcmae.convert SOURCE OUT.safetensors --to timm"
        ) from error
    with file:
        yield file, metadata, extra_part(header)


def read_metadata(path: Path) -> Metadata:
    """Read the metadata of weights that were converted to timm's names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file was not written by this project.
    """
    with open_converted(path) as (_, metadata, _):
        return metadata


def read_converted(path: Path) -> tuple[dict[str, Tensor], Metadata, dict[str, str]]:
    """Read weights that were converted to timm's names: tensors, metadata, the rest of the header.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file was not written by this project.
    """
    with open_converted(path) as (file, metadata, extra_header):
        return tensors_of(file), metadata, extra_header


def read_pt(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a PyTorch file that holds a state dict, under the key `model` or as a whole.

    Since pickle may run code, only tensors and plain containers are read (`weights_only`), and
    `argparse.Namespace`, which holds mere attributes: the official programs save their arguments.

    Returns:
        The tensors, and all texts next to the state dict, among which our metadata may be.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged, or holds other objects, or no state dict.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        code = re.search(r"GLOBAL (\S+) was not an allowed", str(error))
        if code is None:
            raise ValueError(f"{path} is damaged or no PyTorch file") from error
        raise ValueError(
            f"{path} holds a {code[1]}, and pickled objects may run code: where you trust it, save"
            " its state dict alone, torch.save({'model': state_dict}, FILE)"
        ) from error
    outer = cast("dict[str, Any]", content) if isinstance(content, Mapping) else {}
    inner = outer.get("model", outer)
    tensors = cast("dict[str, Any]", inner) if isinstance(inner, Mapping) else {}
    foreign = [str(key) for key, value in tensors.items() if not isinstance(value, Tensor)]
    if not tensors or foreign:
        raise ValueError(
            f"{path} holds no state dict, neither under the key 'model' nor as a whole:"
            f" {len(foreign)} entries are no tensors{weight_names.listing(foreign)}"
        )
    return tensors, {key: value for key, value in outer.items() if isinstance(value, str)}


def load_encoder(encoder: Encoder, source: Path, architecture: Architecture) -> str:
    """Load weights into an encoder, strictly, and describe in one phrase what was loaded.

    Args:
        encoder: the encoder, of the given architecture.
        source: what `read_weights` reads; a final norm and a classifier in it are left out.
        architecture: the architecture that the run trains.

    Raises:
        OSError: a file cannot be read.
        ValueError: the file is damaged, or its tensors are not those of this architecture.
    """
    weights = read_weights(source)
    if not weights.architecture.same_tensors(architecture):
        raise ValueError(
            f"init.weights={source} is {weights.architecture}, but the run trains {architecture}:"
            " change model.name, model.stem_stride or model.in_chans, or give other weights"
        )
    encoder.load_state_dict({name: weights.tensors[name] for name in encoder.state_dict()})
    left_out = [
        f"{prefix}*"
        for prefix in (FINAL_NORM, CLASSIFIER)
        if any(name.startswith(prefix) for name in weights.tensors)
    ]
    without = f", without its {' and '.join(left_out)}" if left_out else ""
    return f"encoder from {source} ({weights.architecture}{without})"


def load_decoder(decoder: nn.Module, source: Path) -> str:
    """Load the decoder of a run or a checkpoint, strictly, and describe what was loaded.

    Raises:
        OSError: there is no checkpoint, or it cannot be read.
        ValueError: the checkpoint is damaged, or its decoder is another one.
    """
    path = find_checkpoint(source)
    tensors, _ = read_checkpoint(path)
    prefix = "decoder."
    kept = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    checkpoint.fill(decoder.state_dict(), kept, path)
    return f"decoder from {path}"
