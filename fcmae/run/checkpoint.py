"""Checkpoints: directories written whole or not at all, with all that cannot be computed again.

    step_0000500/{model,optimizer[,ema].safetensors, state.json, config.yaml, SHA256SUMS}

The files hold whole tensors, however a run is spread over processes, so that any number of
processes, with replicas or shards, can go on from them.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from fcmae.run.files import file_sha256, move_into_place
from fcmae.run.json_files import as_dataclass, read_json
from fcmae.run.terminal import line_of
from fcmae.run.whole_tensors import fill, like, whole

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
EMA = "ema.safetensors"
STATE = "state.json"
CONFIG = "config.yaml"
SUMS = "SHA256SUMS"
SUM = re.compile(r"([0-9a-f]{64})  ([^/]+)")  # a line of it
WAITING = "metrics.jsonl"  # lines that could not be written to the run's file


@dataclass(frozen=True)
class TrainState:
    """The numbers of steps taken and of samples seen, the state of fp16's loss scaler, and the
    samples that could not be read, as the run's counter of them gives its state."""

    step: int = 0
    samples_seen: int = 0
    scaler: dict[str, int | float] = field(default_factory=dict)
    bad: dict[str, Any] = field(default_factory=dict)


Files = dict[str, dict[str, Tensor]]  # file name -> tensors


def snapshot(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    averages: Mapping[str, Tensor] | None = None,
    *,
    keep: bool = True,
) -> Files:
    """Copy all tensors of a checkpoint to main memory, so that training may go on.

    Every process has to call it, since shards are gathered one tensor at a time.

    Args:
        model: the model in training.
        optimizer: its optimiser.
        averages: the averaged parameters by name, if there are any.
        keep: whether this process wants the copies; without it, it gets empty dictionaries.
    """
    tensors = {MODEL: model.state_dict(), OPTIMIZER: moments(model, optimizer)}
    if averages is not None:
        tensors[EMA] = dict(averages)
    return {file: whole(named, keep=keep) for file, named in tensors.items()}


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name the tensors of the optimiser's state `PARAMETER:FIELD`, as the checkpoint holds them."""
    return {
        f"{name}:{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def save(run: Path, state: TrainState, files: Files, config_yaml: str, waiting: str = "") -> Path:
    """Write a checkpoint, synced and renamed into place.

    Args:
        run: the directory of the run.
        state: the state of the run.
        files: the tensors of each file, as `snapshot` copies them.
        config_yaml: the resolved config.
        waiting: lines of metrics up to this step that are not in metrics.jsonl yet; with some, the
            checkpoint has a file of them.

    Returns:
        Its directory, such as `run/step_0000500`.

    Raises:
        OSError: the disk is full or not writable; older checkpoints are untouched.
    """
    final = run / f"step_{state.step:07d}"
    partial = final.with_suffix(".tmp")
    texts = {STATE: json.dumps(asdict(state)), CONFIG: config_yaml}
    if waiting:
        texts[WAITING] = waiting
    try:
        sweep(run)
        partial.mkdir(parents=True)
        sums = []
        # serialised one at a time; writing and hashing, unlike that, let training go on
        serialised = ((name, to_bytes(tensors)) for name, tensors in files.items())
        encoded = ((name, text.encode()) for name, text in texts.items())
        for name, content in chain(serialised, encoded):
            (partial / name).write_bytes(content)
            sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
        (partial / SUMS).write_text("".join(sums))
        if final.exists():  # a damaged one, which the run was resumed before
            final.rename(run / f"{final.name}.old.tmp")
        move_into_place(partial, final)
    except (OSError, MemoryError) as error:
        shutil.rmtree(partial, ignore_errors=True)  # on a full disk it would be in the way
        raise OSError(f"checkpoint {final} cannot be written ({line_of(error)})") from error
    sweep(run)
    return final


def sweep(run: Path, *names: str) -> None:
    """Remove what a kill has left of saves and of removals, as far as it can be removed.

    Args:
        run: the directory of the run.
        names: patterns of what else is to be removed.
    """
    for left in chain.from_iterable(run.glob(name) for name in ("step_*.tmp", *names)):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with suppress(OSError):
                left.unlink()


def remove(path: Path) -> None:
    """Remove a checkpoint, which is never half there under its name.

    Raises:
        OSError: it cannot be removed.
    """
    shutil.rmtree(path.rename(path.with_suffix(".tmp")))


def checkpoints(run: Path) -> list[Path]:
    """List the complete checkpoints of a run, the oldest first."""
    found = (path for path in run.glob("step_*") if re.fullmatch(r"step_\d+", path.name))
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """Read the step of a checkpoint from the name of its directory."""
    return int(path.name.removeprefix("step_"))


def latest(run: Path) -> Path | None:
    """Return the newest complete checkpoint of a run, or None if there is none."""
    return max(checkpoints(run), default=None)


def check(path: Path) -> None:
    """Compare the files of a checkpoint with their SHA-256, of which none may lack.

    Raises:
        ValueError: a file is missing, not listed, or differs; the message names it.
    """
    try:
        lines = (path / SUMS).read_text(errors="replace").splitlines()
        sums = {found[2]: found[1] for found in map(SUM.fullmatch, lines) if found}
        if len(sums) < len(lines):
            raise ValueError(f"{SUMS} has lines that are none of a sum and a name")
        held = [
            MODEL,
            OPTIMIZER,
            STATE,
            CONFIG,
            *(name for name in (EMA, WAITING) if (path / name).exists()),
        ]
        if unlisted := [name for name in held if name not in sums]:
            raise ValueError(f"{SUMS} does not list {', '.join(unlisted)}")
        for name, expected in sums.items():
            if file_sha256(path / name) != expected:
                raise ValueError(f"{name} differs from its SHA-256")
    except (OSError, ValueError) as error:
        raise ValueError(f"checkpoint {path} is damaged: {error}") from error


def newest_whole(run: Path, warn: Callable[[str], object]) -> Path | None:
    """Return the newest checkpoint whose files are undamaged, or None if there are no checkpoints.

    Args:
        run: the directory of the run.
        warn: prints a sentence about each damaged checkpoint that is passed over.

    Raises:
        ValueError: there are checkpoints, and all are damaged.
    """
    complete = checkpoints(run)
    damages = list[str]()
    for path in reversed(complete):
        try:
            check(path)
        except ValueError as error:
            damages.append(str(error))
        else:
            for damage in damages:
                warn(f"{damage}; going back to the one before")
            return path
    if damages:
        raise ValueError(
            f"all {len(complete)} checkpoints of {run} are damaged: restore one, or delete them to"
            f" start from step 0 ({damages[0]})"
        )
    return None


def read_state(path: Path) -> TrainState:
    """Read the state of a run at a checkpoint.

    Args:
        path: directory of the checkpoint.

    Raises:
        ValueError: it is no state.
        OSError: it cannot be read.
    """
    try:
        needed = {"step": None, "samples_seen": None}
        state = as_dataclass(TrainState, needed | read_json(path / STATE, dict))
        if min(state.step, state.samples_seen) < 0:
            raise ValueError("it counts below 0")
    except ValueError as error:
        raise ValueError(f"{STATE} holds no state of a run: {error}") from error
    return state


def load(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    averages: Mapping[str, Tensor] | None = None,
) -> TrainState:
    """Load a checkpoint, strictly, and return the state of the run at its step.

    Args:
        path: directory of the checkpoint.
        model: the model that gets the weights.
        optimizer: the optimiser that gets the moments.
        averages: tensors that get the averaged parameters, if there are any.

    Raises:
        ValueError: files are missing or damaged, or belong to another model.
    """
    try:
        tensors = load_file(path / MODEL)
        optimizer_state = load_file(path / OPTIMIZER)
        averaged = {} if averages is None else load_file(path / EMA)
        state = read_state(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(
            f"checkpoint {path} is damaged ({error}); delete it to go on from the one before"
        ) from error
    fill(model.state_dict(), tensors, path)
    if averages is not None:
        fill(averages, averaged, path / EMA)
    parameters = dict(model.named_parameters())
    if others := [key for key in optimizer_state if key.rpartition(":")[0] not in parameters]:
        raise ValueError(
            f"{path / OPTIMIZER} holds another model: {others[0]} is of none of its own"
        )
    for key, value in optimizer_state.items():
        name, entry = key.rsplit(":", 1)
        parameter = parameters[name]
        sharded = value.shape == parameter.shape  # a step count is not
        optimizer.state[parameter][entry] = (
            like(parameter, value) if sharded else value.to(parameter.device)
        )
    return state
