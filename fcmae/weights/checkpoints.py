"""Checkpoints of pretraining as weights: which one a path names, its tensors and its metadata."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from fcmae.architecture import Architecture
from fcmae.patches import sides_of
from fcmae.run import checkpoint
from fcmae.run.json_files import as_object
from fcmae.run.yaml_files import read_yaml
from fcmae.weights.metadata import READING, Metadata

ARCHITECTURE = [field.name for field in fields(Architecture)]


def find_checkpoint(source: Path, warn: Callable[[str], object] = print) -> Path:
    """Find the step directory that `source` names, all of whose files are as they were written.

    Args:
        source: a run, whose newest undamaged step is taken; a step directory; or a weights file in
            one.
        warn: prints a sentence about each damaged step of a run that is passed over.

    Raises:
        FileNotFoundError: `source` holds no checkpoint.
        ValueError: the checkpoint is damaged, or all of the run are.
    """
    step = source.parent if source.name in (checkpoint.MODEL, checkpoint.EMA) else source
    if is_checkpoint(step):
        checkpoint.check(step)
        return step
    newest = checkpoint.newest_whole(source, warn)
    if newest is None:
        raise FileNotFoundError(
            f"{source} holds no checkpoint; give a run, a step_* directory or the"
            f" {checkpoint.MODEL} in one, or a .safetensors or .pt file"
        )
    return newest


def is_checkpoint(directory: Path) -> bool:
    """Whether a directory is a checkpoint of ours, perhaps a damaged one.

    timm's hub calls its files model.safetensors, too.
    """
    if directory in checkpoint.checkpoints(directory.parent):
        return directory.is_dir()
    return any((directory / name).is_file() for name in (checkpoint.STATE, checkpoint.OPTIMIZER))


def read_checkpoint(step: Path, file: str = checkpoint.MODEL) -> tuple[dict[str, Tensor], Metadata]:
    """Read the tensors in a file of a step directory, and the metadata out of its config.

    Raises:
        OSError: a file cannot be read.
        ValueError: the checkpoint is damaged.
    """
    try:
        config = read_yaml(step / checkpoint.CONFIG)
        state = checkpoint.read_state(step)
        tensors = load_file(step / file)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"checkpoint {step} is damaged: {error}") from error
    if "model" not in config:
        raise ValueError(
            f"checkpoint {step} is of fine-tuning: give {step.parent / 'weights.safetensors'}"
        )
    try:
        return tensors, metadata_in(config, state.step)
    except ValueError as error:
        raise ValueError(f"checkpoint {step} is damaged: {checkpoint.CONFIG}: {error}") from error


def metadata_in(config: dict[str, Any], step: int) -> Metadata:
    """Make the metadata of the encoder of a pretraining run at a step out of its config.

    Raises:
        ValueError: the config is none of pretraining.
    """
    model, data = (as_object(config.get(section)) for section in ("model", "data"))
    told = {"model" if name == "name" else name: model.get(name) for name in ARCHITECTURE}
    if isinstance(told["image_size"], int):
        told["image_size"] = sides_of(told["image_size"])
    # earlier runs tell less of how images are read
    told |= {name: data[name] for name in ("mean", "std", *READING) if name in data}
    metadata = Metadata.of_json(json.dumps(told | {"step": step}))
    metadata.architecture.check()
    return metadata
