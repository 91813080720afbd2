"""Checkpoints: a directory written whole or not at all, with all that cannot be computed again.

    step_0000500/{model,optimizer[,ema].safetensors, state.json, config.yaml, SHA256SUMS}

What is written does not depend on how a run is spread over processes: the tensors are whole ones,
so any number of processes, with replicas or shards, goes on from it.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from fcmae.run.files import file_sha256, move_into_place

MODEL, OPTIMIZER, EMA, STATE, CONFIG, SUMS = (
    "model.safetensors",
    "optimizer.safetensors",
    "ema.safetensors",
    "state.json",
    "config.yaml",
    "SHA256SUMS",
)


@dataclass(frozen=True)
class TrainState:
    """Steps taken, samples seen by them, and the loss scale of fp16, which has a history."""

    step: int = 0
    samples_seen: int = 0
    scaler: dict[str, float] = field(default_factory=dict)


Files = dict[str, dict[str, Tensor]]  # file name -> tensors


def snapshot(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    averages: Mapping[str, Tensor] | None = None,
    *,
    keep: bool = True,
) -> Files:
    """Copies in main memory of all tensors of a checkpoint, so that training may go on.

    Every process has to call it, since shards are gathered one tensor at a time; those that do not
    `keep` what they gathered get empty dictionaries.
    """

    tensors = {MODEL: model.state_dict(), OPTIMIZER: moments(model, optimizer)}
    if averages is not None:
        tensors[EMA] = dict(averages)
    return {file: whole(named, keep=keep) for file, named in tensors.items()}


def whole(named: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Copies in main memory of whole tensors, if they are to be kept; on every process."""
    copies = {}
    for name, value in named.items():
        tensor = value.full_tensor() if isinstance(value, DTensor) else value
        if keep:
            copies[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return copies


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state under `PARAMETER:FIELD`, so that no file needs pickle."""
    return {
        f"{name}:{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


class Writer:
    """Writes checkpoints in a thread, one at a time, while training goes on.

    Args:
        run: the run directory.
        keep: the newest so many stay.
        keep_every: and those of every so many steps, for good; None: no others.
    """

    def __init__(self, run: Path, keep: int, keep_every: int | None = None) -> None:
        self.run, self.keep, self.keep_every = run, keep, keep_every
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.writing: Future[Path] | None = None

    def write(self, state: TrainState, files: Files, config_yaml: str) -> None:
        """Start to write `step_0000500/`, once the one before is written.

        Raises:
            OSError: that one could not be written; older checkpoints are untouched.
        """
        self.wait()
        self.writing = self.thread.submit(self._save, state, files, config_yaml)

    def wait(self) -> None:
        """Until what was started is on the disk; raises as `write`."""
        if self.writing is not None:
            writing, self.writing = self.writing, None
            writing.result()

    def failed(self) -> bool:
        """Whether the last write has failed already, which `wait` will say."""
        return self.writing is not None and self.writing.done() and bool(self.writing.exception())

    def _save(self, state: TrainState, files: Files, config_yaml: str) -> Path:
        path = save(self.run, state, files, config_yaml)
        drop_old(self.run, self.keep, self.keep_every)
        return path


def save(run: Path, state: TrainState, files: Files, config_yaml: str) -> Path:
    """Write `run/step_0000500/`, synced and renamed into place.

    Raises:
        OSError: the disk is full or not writable; older checkpoints are untouched.
    """
    final = run / f"step_{state.step:07d}"
    partial = final.with_suffix(".tmp")
    try:
        for left in run.glob("step_*.tmp"):  # what a kill left of an earlier save or removal
            shutil.rmtree(left)
        partial.mkdir(parents=True)
        texts = {STATE: json.dumps(asdict(state)).encode(), CONFIG: config_yaml.encode()}
        sums = []
        # serialised one at a time; writing and hashing, unlike that, let training go on
        serialised = ((name, to_bytes(tensors)) for name, tensors in files.items())
        for name, content in chain(serialised, texts.items()):
            (partial / name).write_bytes(content)
            sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
        (partial / SUMS).write_text("".join(sums))
        if final.exists():  # a damaged one, which the run was resumed before
            shutil.rmtree(final.rename(run / f"{final.name}.old.tmp"))
        move_into_place(partial, final)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)  # on a full disk it would be in the way
        raise OSError(
            f"checkpoint {final} cannot be written ({error}); older ones are untouched: make room,"
            " and restart the same command"
        ) from error
    return final


def drop_old(run: Path, keep: int, keep_every: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and those of every `keep_every` steps."""
    for old in checkpoints(run)[:-keep]:
        if keep_every is None or step_of(old) % keep_every:
            shutil.rmtree(old.rename(old.with_suffix(".tmp")))  # never half there under its name


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(p for p in run.glob("step_*") if re.fullmatch(r"step_\d+", p.name))


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.name.removeprefix("step_"))


def latest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, if there is one."""
    found = checkpoints(run)
    return found[-1] if found else None


def check(path: Path) -> None:
    """Compare a checkpoint's files with their SHA-256.

    Raises:
        ValueError: one is missing or differs; the message names it.
    """
    try:
        lines = (path / SUMS).read_text().splitlines()
        for line in lines:
            expected, name = line.split("  ")
            if file_sha256(path / name) != expected:
                raise ValueError(f"{name} differs from its SHA-256")
        if not lines:
            raise ValueError(f"{SUMS} is empty")
    except (OSError, ValueError) as error:
        raise ValueError(f"checkpoint {path} is damaged: {error}") from error


def newest_whole(run: Path, warn: Callable[[str], object]) -> Path | None:
    """The newest checkpoint whose files are what was written; None if there are none at all.

    Args:
        run: the run directory.
        warn: is told of each damaged one that is passed over.

    Raises:
        ValueError: there are some, and all are damaged.
    """
    found = checkpoints(run)
    for path in reversed(found):
        try:
            check(path)
            return path
        except ValueError as error:
            warn(f"{error}; going back to the one before")
    if found:
        raise ValueError(
            f"all {len(found)} checkpoints of {run} are damaged: restore one, or delete them to"
            " start from step 0"
        )
    return None


def load(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    averages: Mapping[str, Tensor] | None = None,
) -> TrainState:
    """Load `path` into model, optimiser and, if they are given, the averages, strictly.

    Raises:
        ValueError: files are missing or damaged, or belong to another model.
    """
    try:
        tensors, state_of = load_file(path / MODEL), load_file(path / OPTIMIZER)
        averaged = {} if averages is None else load_file(path / EMA)
        state = TrainState(**json.loads((path / STATE).read_text()))
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise ValueError(
            f"checkpoint {path} is damaged ({error}); delete it to go on from the one before"
        ) from error
    fill(model.state_dict(), tensors, path)
    if averages is not None:
        fill(averages, averaged, path / EMA)
    parameters = dict(model.named_parameters())
    for key, value in state_of.items():
        name, entry = key.rsplit(":", 1)
        parameter = parameters[name]
        sharded = value.shape == parameter.shape  # a step count is not
        optimizer.state[parameter][entry] = (
            like(parameter, value) if sharded else value.to(parameter.device)
        )
    return state


def like(target: Tensor, value: Tensor) -> Tensor:
    """`value` on the device of `target`, split over processes and laid out in memory as it is."""
    if isinstance(target, DTensor):  # every process has read all of it: nothing is sent
        value = value.to(target.device)
        return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
    # the fused AdamW goes through a channels-last parameter and its moments side by side
    return torch.empty_like(target, dtype=value.dtype).copy_(value)


@torch.no_grad()
def fill(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into those of the same names.

    Raises:
        ValueError: names or shapes differ; the message lists the first few.
    """
    wrong = sorted(tensors.keys() ^ own.keys())
    wrong += [k for k in sorted(tensors.keys() & own.keys()) if tensors[k].shape != own[k].shape]
    if wrong:
        raise ValueError(
            f"{path} holds another model: {len(wrong)} tensors differ in name or shape,"
            f" such as {', '.join(wrong[:3])}; use the model options that it was made with"
        )
    for name, tensor in own.items():
        tensor.copy_(like(tensor, tensors[name]))
