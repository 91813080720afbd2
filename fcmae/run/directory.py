"""The run directory: the config of a run, each of its starts, and the check that a restart fits."""

import json
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from fcmae.run import checkpoint
from fcmae.run.config import differences, to_tree, to_yaml
from fcmae.run.files import write_text
from fcmae.run.metrics import drop_metrics_after

ENVIRONMENT = "environment.json"
PACKAGES = (
    *("torch", "torchvision", "timm", "accelerate", "webdataset"),
    *("numba", "numpy", "pillow", "simplejpeg"),
)


def compare(run: Path, config: Any, *, free: tuple[str, ...], length: tuple[str, ...]) -> list[str]:
    """Compare the config of a restart with the one that the run was started with.

    Args:
        run: the directory; one without checkpoints has nothing to compare with.
        config: the resolved config of this start.
        free: fields, and sections such as `run.`, that change no number.
        length: fields that only say how long the run is.

    Returns:
        What the restart changes of the length, as lines `field: old -> new`.

    Raises:
        ValueError: fields differ that change numbers; the message lists them.
    """
    written = run / checkpoint.CONFIG
    if checkpoint.latest(run) is None or not written.exists():
        return []
    old = yaml.safe_load(written.read_text())
    differing = differences(old, to_tree(config), ignore=free)
    refused = [line for line in differing if line.partition(":")[0] not in length]
    if refused:
        raise ValueError(
            f"{run} holds a run with another config ({'; '.join(refused)});"
            " take these values back, or choose another --run.dir"
        )
    return differing


def begin(run: Path, config: Any, step: int, **where: Any) -> None:
    """Record a start: write config.yaml, extend environment.json, forget metrics past `step`.

    Args:
        run: the directory, which is made if it is not there.
        config: the resolved config.
        step: steps that have been taken already.
        where: what else is recorded of this start, such as the number of processes.

    Raises:
        OSError: the directory is not writable.
    """
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / checkpoint.CONFIG, to_yaml(config))
    starts = run / ENVIRONMENT
    earlier = json.loads(starts.read_text()) if starts.exists() else []
    start = {"step": step} | environment() | where
    write_text(starts, json.dumps([*earlier, start], indent=2))
    drop_metrics_after(run, step)


def environment() -> dict[str, Any]:
    """What the numbers of a run may depend on beside its config: code, packages and threads."""

    def git(*command: str) -> str | None:
        if shutil.which("git") is None:
            return None
        done = subprocess.run(
            ["git", "-C", Path(__file__).parent, *command], capture_output=True, text=True
        )
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain")
    return {
        "command": sys.argv,
        "commit": git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
    }
