"""Encoder weights out of any file that holds some, and what the file tells about them.

`load_encoder` is how a run continues from weights that no run of ours, or no whole run, has left.
"""

import argparse
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from fcmae.encoder import Encoder
from fcmae.model import ModelConfig
from fcmae.run import checkpoint
from fcmae.weights import weight_names
from fcmae.weights.weight_names import CLASSIFIER, FINAL_NORM, Architecture

# What torch.load raises of files that are cut short or no pickle, beside what it refuses.
DAMAGED = (UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, struct.error)
HEADER = "fcmae"  # key of the metadata in a safetensors header or beside `model` in a .pt file
CLASSES = "classes"  # likewise of the names of a classifier's classes, a JSON list of strings


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a user of the weights must know; files of ours hold it as JSON."""

    model: str
    image_size: tuple[int, int]
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stem_stride: int
    step: int | None
    """Of the pretraining run; None for weights from elsewhere."""

    @property
    def architecture(self) -> Architecture:
        """What decides names and shapes."""
        return Architecture(model=self.model, in_chans=self.in_chans, stem_stride=self.stem_stride)

    @property
    def channel_mean(self) -> tuple[float, ...]:
        """One mean for each channel."""
        return self.mean * (self.in_chans // len(self.mean))

    @property
    def channel_std(self) -> tuple[float, ...]:
        """One standard deviation for each channel."""
        return self.std * (self.in_chans // len(self.std))

    @staticmethod
    def of_json(text: str) -> "Metadata":
        """The metadata that a header holds.

        Raises:
            ValueError, TypeError: it holds something else.
        """
        fields: dict[str, Any] = json.loads(text)
        return Metadata(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """An encoder's tensors under our names, with a final norm and a classifier if there are any."""

    tensors: dict[str, Tensor]
    architecture: Architecture
    metadata: Metadata | None
    """None where the file has none: image size, mean and std are not known then."""
    classes: tuple[str, ...]
    """Names of the classifier's classes, their numbers where the file does not tell; or none."""
    beside: dict[str, str]
    """What else a file of ours tells, such as a fine-tuned one of its classes and task."""
    dropped: int
    """Tensors of a decoder that were left out."""


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """What the model starts from, beside the seed."""

    weights: Path | None = None
    """Encoder weights to start from, in any file that `python -m fcmae.convert` reads; the decoder
    starts fresh. Read before step 0 only: a run that resumes takes its own checkpoint."""
    decoder: bool = False
    """Start from the decoder of `weights` too, which has to be a run or a checkpoint of one."""


def find_checkpoint(source: Path) -> Path:
    """The step directory that `source` names: a run's newest, itself, or that of a file in one.

    Raises:
        FileNotFoundError: there is none.
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
    """Encoder weights from a checkpoint of ours (a run, a step_* directory, the model.safetensors
    or ema.safetensors in one) or a .safetensors, .pt or .pth file in timm's or official names.

    Raises:
        OSError: something cannot be read.
        ValueError: the file is damaged, or its tensors are not those of one whole encoder.
    """
    # timm's hub calls its files model.safetensors too: what lies beside them tells ours.
    beside = (source.parent / checkpoint.STATE).is_file()
    ours = beside and source.name in (checkpoint.MODEL, checkpoint.EMA)
    if source.is_file() and not ours:
        path, (tensors, metadata, beside) = source, read_file(source)
    else:
        path = find_checkpoint(source)
        averaged = source.name == checkpoint.EMA
        tensors, metadata = read_checkpoint(path, checkpoint.EMA if averaged else checkpoint.MODEL)
        beside = {}
    try:
        known = metadata.architecture if metadata is not None else weight_names.infer(tensors)
        kept = weight_names.read(tensors, known)
        classes = class_names(beside, count_classes(kept))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Weights(
        tensors=kept,
        architecture=known,
        metadata=metadata,
        classes=classes,
        beside=beside,
        dropped=len(tensors) - len(kept),
    )


def count_classes(tensors: Mapping[str, Tensor]) -> int:
    """Of the classifier among tensors under our names; 0 where there is none."""
    return len(tensors.get(f"{CLASSIFIER}bias", ()))


def class_names(beside: Mapping[str, str], count: int) -> tuple[str, ...]:
    """The names that a file has for its `count` classes, or their numbers.

    Raises:
        ValueError: they are no list, or not as many.
    """
    if CLASSES not in beside:
        return tuple(map(str, range(count)))
    try:
        found = tuple(map(str, json.loads(beside[CLASSES])))
    except (ValueError, TypeError) as error:
        raise ValueError(f"the metadata under {CLASSES!r} are damaged: {error}") from error
    if len(found) != count:
        raise ValueError(
            f"{len(found)} names for a classifier of {count} classes: correct {CLASSES!r} in the"
            " header"
        )
    return found


def read_checkpoint(step: Path, file: str = checkpoint.MODEL) -> tuple[dict[str, Tensor], Metadata]:
    """The tensors in a file of a checkpoint of ours, and what its config tells.

    Raises:
        OSError: something cannot be read.
        ValueError: the checkpoint is damaged.
    """
    try:
        config: dict[str, Any] = yaml.safe_load((step / checkpoint.CONFIG).read_text())
        state: dict[str, int] = json.loads((step / checkpoint.STATE).read_text())
        tensors = load_file(step / file)
    except (SafetensorError, yaml.YAMLError, ValueError) as error:
        raise ValueError(f"checkpoint {step} is damaged: {error}") from error
    model, size = config["model"], config["model"]["image_size"]
    return tensors, Metadata(
        model=model["name"],
        image_size=(size, size) if isinstance(size, int) else (size[0], size[1]),
        in_chans=model["in_chans"],
        mean=tuple(config["data"]["mean"]),
        std=tuple(config["data"]["std"]),
        stem_stride=model["stem_stride"],
        step=state["step"],
    )


def read_file(path: Path) -> tuple[dict[str, Tensor], Metadata | None, dict[str, str]]:
    """The tensors of one file, the metadata in it if there is any, and what it tells beside that.

    Raises:
        OSError: it cannot be read.
        ValueError: see `read_pt`; or no metadata that can be read.
    """
    if path.suffix == ".safetensors":
        try:
            tensors, header = load_file(path), header_of(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is no safetensors file: {error}") from error
    elif path.suffix in (".pt", ".pth"):
        tensors, header = read_pt(path)
    else:
        raise ValueError(
            f"{path} ends in {path.suffix!r}; weights are read from .safetensors, .pt, .pth"
        )
    if HEADER not in header:  # a file of others, who mean other things by CLASSES
        return tensors, None, {}
    try:
        metadata = Metadata.of_json(header[HEADER])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: the metadata under {HEADER!r} are damaged: {error}") from error
    return tensors, metadata, {k: v for k, v in header.items() if k not in (HEADER, "format")}


def header_for(metadata: Metadata, beside: Mapping[str, str]) -> dict[str, str]:
    """What files of ours tell of themselves."""
    return {HEADER: json.dumps(asdict(metadata)), **beside}


def header_of(path: Path) -> dict[str, str]:
    """The header of a safetensors file, empty if there is none."""
    with cast("Any", safe_open(path, framework="pt")) as file:
        return file.metadata() or {}


def read_pt(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict under `model`, or the whole file if it is one, and our metadata beside it.

    Pickle may run code, so only tensors and plain containers are read (`weights_only`), and
    `argparse.Namespace`, which holds attributes alone: the official programs save their arguments.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, holds other objects too, or no state dict.
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
    found = outer.get("model", outer)
    tensors = cast("dict[str, Any]", found) if isinstance(found, Mapping) else {}
    foreign = [str(key) for key, value in tensors.items() if not isinstance(value, Tensor)]
    if not tensors or foreign:
        raise ValueError(
            f"{path} holds no state dict, neither under the key 'model' nor as a whole:"
            f" {len(foreign)} entries are no tensors{weight_names.listing(foreign)}"
        )
    return tensors, {key: value for key, value in outer.items() if isinstance(value, str)}


def load_encoder(encoder: Encoder, source: Path, config: ModelConfig) -> str:
    """Load weights into `encoder`, strictly; what is to be told of it.

    Args:
        encoder: made as `config` says.
        source: see `read_weights`. A final norm and a classifier in it have no place here.

    Raises:
        OSError, ValueError: see `read_weights`; or the weights are of another architecture.
    """
    weights = read_weights(source)
    wanted = Architecture(
        model=config.name, in_chans=config.in_chans, stem_stride=config.stem_stride
    )
    if weights.architecture != wanted:
        raise ValueError(
            f"init.weights={source} is {weights.architecture}, but the run trains {wanted}:"
            " change model.name, model.stem_stride or model.in_chans, or give other weights"
        )
    own = encoder.state_dict()
    encoder.load_state_dict({name: weights.tensors[name] for name in own})
    beside = [p for p in (FINAL_NORM, CLASSIFIER) if any(k.startswith(p) for k in weights.tensors)]
    without = f", without its {' and '.join(f'{prefix}*' for prefix in beside)}" if beside else ""
    return f"encoder from {source} ({weights.architecture}{without})"


def load_decoder(decoder: nn.Module, source: Path) -> str:
    """Load the decoder of a checkpoint of ours, strictly; what is to be told of it.

    Raises:
        OSError, ValueError: see `find_checkpoint` and `read_checkpoint`; or it is another decoder.
    """
    path = find_checkpoint(source)
    tensors, _ = read_checkpoint(path)
    prefix = "decoder."
    kept = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    checkpoint.fill(decoder.state_dict(), kept, path)
    return f"decoder from {path}"
