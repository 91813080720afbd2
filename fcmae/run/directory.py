"""The run directory: its config, where it was started, and its metrics, across restarts."""

import hashlib
import json
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, Literal, NoReturn

import torch
import yaml

from fcmae.run import checkpoint
from fcmae.run.checkpoint import write_text
from fcmae.run.config import differences, flatten, to_tree, to_yaml

METRICS, ENVIRONMENT = "metrics.jsonl", "environment.json"
PACKAGES = (
    *("torch", "torchvision", "timm", "accelerate", "webdataset"),
    *("numba", "numpy", "pillow", "simplejpeg"),
)
PLAIN = (bool, int, float, str)  # what trackers take


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What cannot change a number, of pretraining and of fine-tuning."""

    save_every: int = 500
    """Steps between checkpoints; one is always written at the end."""
    keep: int = 3
    """Checkpoints to keep, the newest ones."""
    keep_every: int | None = None
    """Keep for good, too, those whose step is a multiple of this."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl; only then does the device have to be waited for."""
    verify: bool = True
    """Compare the shards with their SHA-256 before step 0; sizes are always compared."""
    timeout: float = 600.0
    """Seconds after which processes give up on one that does not answer."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    """Where metrics go beside metrics.jsonl; each needs its package."""

    def check(self) -> None:
        """Raise ValueError for an interval or a number of checkpoints below 1."""
        for name in ("save_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"run.{name}={getattr(self, name)} must be at least 1")


def compare(run: Path, config: Any, *, free: tuple[str, ...], length: tuple[str, ...]) -> list[str]:
    """What a resumed run changes: `field: old -> new` of the fields in `length`.

    Args:
        run: the directory; one without checkpoints has nothing to compare with.
        config: the resolved config of this start.
        free: beginnings of the names of fields that change no number.
        length: fields that only say how long the run is.

    Raises:
        ValueError: fields differ that change numbers; the message lists them.
    """
    written = run / checkpoint.CONFIG
    if checkpoint.latest(run) is None or not written.exists():
        return []
    found, wanted = yaml.safe_load(written.read_text()), to_tree(config)
    differing = differences(found, wanted, ignore=free)
    refused = [line for line in differing if line.partition(":")[0] not in length]
    if refused:
        raise ValueError(
            f"{run} holds a run with another config ({'; '.join(refused)});"
            " take these values back, or choose another --run.dir"
        )
    return differing


def begin(run: Path, config: Any, step: int, **where: Any) -> None:
    """Write config.yaml, add this start to environment.json, and forget metrics past `step`.

    Raises:
        OSError: the directory is not writable.
    """
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / checkpoint.CONFIG, to_yaml(config))
    starts = run / ENVIRONMENT
    earlier = json.loads(starts.read_text()) if starts.exists() else []
    start = {"step": step} | environment() | where
    write_text(starts, json.dumps([*earlier, start], indent=2))
    metrics = run / METRICS
    if metrics.exists():  # steps that will be run again, and a last line that a kill left half
        lines = metrics.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        write_text(metrics, "".join(kept))


def add_metrics(run: Path, line: Mapping[str, Any]) -> None:
    """Append one line to metrics.jsonl."""
    with (run / METRICS).open("a") as file:
        print(json.dumps(line), file=file)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All lines of metrics.jsonl."""
    return [json.loads(line) for line in (run / METRICS).read_text().splitlines()]


def count_metrics(run: Path) -> int:
    """How many lines there are while a run writes them: whole ones, none before the first."""
    file = run / METRICS
    return file.read_bytes().count(b"\n") if file.exists() else 0


def numbers(line: Mapping[str, Any]) -> dict[str, int | float | None]:
    """A line of metrics as trackers take it: lists and mappings under `name/key`."""
    flat: dict[str, int | float | None] = {}
    for name, value in line.items():
        if isinstance(value, Mapping | list):
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            flat |= {f"{name}/{key}": part for key, part in items}
        else:
            flat[name] = value
    return flat


def of_trackers(run: Path, config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config as trackers take it, and arguments that make a restart go on in wandb."""
    flat = {k: v if type(v) in PLAIN else str(v) for k, v in flatten(to_tree(config)).items()}
    same_run = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]
    wandb = {"dir": str(run), "name": run.name, "id": same_run, "resume": "allow"}
    return flat, {"wandb": wandb}


def peak_memory(device: torch.device) -> float:
    """The most that this process has held, in 10^9 bytes: of the device, or of main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def report_not_finite(run: Path, step: int, lr: float, samples: Sequence[str]) -> NoReturn:
    """End a run whose loss, or gradient, is not finite.

    Args:
        run: its directory, where the samples are listed in a file if they are given.
        step: the first such step, counted from 1.
        lr: the learning rate now.
        samples: those of that step, on the process where it began.

    Raises:
        FloatingPointError: always; every process has to call this.
    """
    file = run / f"not_finite_{step:07d}.json"
    if samples:
        content = {"step": step, "lr": lr, "samples": samples}
        write_text(file, json.dumps(content, indent=2) + "\n")
    newest = checkpoint.latest(run)
    go_on = f" and --init.weights {newest} --init.decoder True" if newest else ""
    raise FloatingPointError(
        f"the loss is not finite at step {step} (lr {lr:.2g}), whose samples {file} lists; newest"
        f" checkpoint: {newest}; start another --run.dir with a lower optim.base_lr, a longer"
        f" warm-up, optim.clip_grad or precision fp32{go_on}"
    )


def summary(run: Path, steps: int, batch_size: int) -> str:
    """What the steps of a dry run took, and what `steps` of them would take."""
    lines = read_metrics(run)
    settled = lines[len(lines) // 4 :]  # the first steps compile and fill queues
    speed, wait = (median(line[key] for line in settled) for key in ("images_per_s", "data_wait"))
    newest = checkpoint.latest(run)
    assert newest is not None
    size = sum(file.stat().st_size for file in newest.iterdir())
    return (
        f"{len(lines)} steps: {speed:.0f} images/s, {1000 * batch_size / speed:.0f} ms a step,"
        f" data wait {wait:.0%}; peak memory {lines[-1]['memory_gb']:.2f} GB a process; a"
        f" checkpoint has {size / 1e6:.0f} MB\n"
        f"all {steps} steps would take {timedelta(seconds=round(steps * batch_size / speed))}"
    )


def environment() -> dict[str, Any]:
    """What the run's numbers may depend on beside its config."""

    def git(*command: str) -> str | None:
        if shutil.which("git") is None:
            return None
        found = subprocess.run(
            ["git", "-C", Path(__file__).parent, *command], capture_output=True, text=True
        )
        return found.stdout.strip() if found.returncode == 0 else None

    status = git("status", "--porcelain")
    return {
        "command": sys.argv,
        "commit": git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
    }
