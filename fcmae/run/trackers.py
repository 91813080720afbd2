"""Trackers: what gets the metrics of a run beside metrics.jsonl, and how each is started."""

import hashlib
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from fcmae.run.config import flatten, to_tree

PLAIN = (bool, int, float, str)  # the types of values that trackers take
MLFLOW_STORE = "MLFLOW_TRACKING_URI"  # in the environment: where mlflow keeps runs


def check_installed(trackers: Sequence[str]) -> None:
    """Check that trackers are installed: accelerate would go on without those that are not.

    Raises:
        ModuleNotFoundError: one is not.
    """
    for name in trackers:
        if find_spec(name) is None:
            raise ModuleNotFoundError(
                f"run.trackers={name} is not installed: pip install 'fcmae[trackers]', or {name}"
            )


def start_trackers(
    accelerator: Accelerator, trackers: Sequence[str], run: Path, config: Any
) -> None:
    """Start the trackers of a run. Unless the environment says where, mlflow writes beside the run.

    Args:
        accelerator: the accelerator, which was made with these trackers.
        trackers: their names; none starts nothing.
        run: the directory of the run, whose path names the run for wandb.
        config: the resolved config, which trackers get as a flat dictionary.

    Raises:
        ConnectionError: a tracker cannot start.
    """
    if not trackers:
        return
    if "mlflow" in trackers and MLFLOW_STORE not in os.environ:
        store = run.resolve().parent / "mlruns"  # of files: a database needs another package
        os.environ |= {MLFLOW_STORE: store.as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true"}
        accelerator.print(f"mlflow writes to {store}; {MLFLOW_STORE} names another place")
    flat = {k: v if type(v) in PLAIN else str(v) for k, v in flatten(to_tree(config)).items()}
    same_run = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]
    wandb = {"dir": str(run), "name": run.name, "id": same_run, "resume": "allow"}
    try:
        accelerator.init_trackers("fcmae", flat, init_kwargs={"wandb": wandb})
    except Exception as error:  # each has its own
        raise ConnectionError(
            f"run.trackers={' '.join(trackers)} cannot start: leave out what fails, or let it start"
            f" (wandb: wandb login, or WANDB_MODE=offline; mlflow: {MLFLOW_STORE}): {error}"
        ) from error
