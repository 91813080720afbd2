"""Checkpoints: a directory written whole or not at all, with all that cannot be computed again."""

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

MODEL, OPTIMIZER, STATE, CONFIG = (
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "config.yaml",
)


@dataclass(frozen=True)
class TrainState:
    """Steps taken, and samples seen by them."""

    step: int = 0
    samples_seen: int = 0


def save(
    run: Path,
    state: TrainState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config_yaml: str,
    keep: int,
) -> Path:
    """Write `run/step_0000500/`, synced and renamed into place; then drop all but the last `keep`.

    Raises:
        OSError: the disk is full or not writable; older checkpoints are untouched.
    """
    final = run / f"step_{state.step:07d}"
    partial = final.with_suffix(".tmp")
    for left in run.glob("step_*.tmp"):  # what a kill left of an earlier save or removal
        shutil.rmtree(left)
    partial.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, partial / MODEL)
    save_file(optimizer_tensors(model, optimizer), partial / OPTIMIZER)
    (partial / STATE).write_text(json.dumps(asdict(state)))
    (partial / CONFIG).write_text(config_yaml)
    for path in (*partial.iterdir(), partial):
        sync(path)
    partial.rename(final)
    sync(run)
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old.rename(old.with_suffix(".tmp")))  # never half there under its name
    return final


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all: a kill leaves the old one."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def sync(path: Path) -> None:
    """Have the file or directory on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(p for p in run.glob("step_*") if re.fullmatch(r"step_\d+", p.name))


def latest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, if there is one."""
    found = checkpoints(run)
    return found[-1] if found else None


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state under `PARAMETER:FIELD`, so that no file needs pickle."""
    return {
        f"{name}:{field}": value.contiguous()
        for name, parameter in model.named_parameters()
        for field, value in optimizer.state.get(parameter, {}).items()
    }


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState:
    """Load `path` into model and optimiser, strictly.

    Raises:
        ValueError: files are missing or damaged, or belong to another model.
    """
    try:
        tensors, moments = load_file(path / MODEL), load_file(path / OPTIMIZER)
        state = TrainState(**json.loads((path / STATE).read_text()))
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise ValueError(
            f"checkpoint {path} is damaged ({error}); delete it to go on from the one before"
        ) from error
    load_model(model, tensors, path)
    expected = [name for group in optimizer.param_groups for name in map(id, group["params"])]
    parameters = {name: p for name, p in model.named_parameters() if id(p) in set(expected)}
    for key, value in moments.items():
        name, field = key.rsplit(":", 1)
        parameter = parameters[name]
        device = "cpu" if field == "step" else parameter.device
        optimizer.state[parameter][field] = value.to(device)
    return state


def load_model(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load weights strictly.

    Raises:
        ValueError: names or shapes differ; the message lists the first few.
    """
    own = model.state_dict()
    wrong = sorted(tensors.keys() ^ own.keys())
    wrong += [k for k in sorted(tensors.keys() & own.keys()) if tensors[k].shape != own[k].shape]
    if wrong:
        raise ValueError(
            f"{path} holds another model: {len(wrong)} tensors differ in name or shape,"
            f" such as {', '.join(wrong[:3])}; use the model options that it was made with"
        )
    model.load_state_dict(tensors)
