"""Trackers: what gets the metrics of a run beside metrics.jsonl, and how each is started."""

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from fcmae.run.config import to_tree
from fcmae.run.fields import flatten
from fcmae.run.metrics import as_scalars
from fcmae.run.outages import Outage

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


class Trackers:
    """The trackers of a run, of which none can stop it once they have started.

    One that fails is tried again with the next line, and after further failures with ever fewer:
    it misses 1, 3, 7, 15 ... of them, since a server that does not answer costs its time-out each
    time. metrics.jsonl has all lines.

    Args:
        accelerator: the accelerator, which was made with these trackers.
        names: their names; none starts nothing.
        run: the directory of the run, whose path names the run for wandb.
        config: the resolved config, which trackers get as a flat dictionary.

    Raises:
        ConnectionError: a tracker cannot start.
    """

    def __init__(
        self, accelerator: Accelerator, names: Sequence[str], run: Path, config: Any
    ) -> None:
        self.accelerator = accelerator
        start_trackers(accelerator, names, run, config)
        if "tensorboard" in names:
            threading.excepthook = _show_unless_raised_again
        mine = accelerator.trackers if accelerator.is_main_process else []
        self.outages = {tracker.name: Outage("and metrics.jsonl has all lines") for tracker in mine}
        self.misses = dict.fromkeys(self.outages, 0)  # lines that each does not get before a try

    def log(self, line: Mapping[str, Any]) -> None:
        """Hand a line of metrics to each tracker."""
        for tracker in self.accelerator.trackers if self.outages else []:
            outage = self.outages[tracker.name]
            if self.misses[tracker.name]:
                self.misses[tracker.name] -= 1
                continue
            with outage.spared(f"logging to {tracker.name}"):
                tracker.log(as_scalars(line), step=line["step"])
            self.misses[tracker.name] = 2 ** max(outage.failures - 1, 0) - 1

    def finish(self) -> None:
        """Let each tracker write what it still holds; the program may start another run then."""
        for tracker in self.accelerator.trackers if self.outages else []:
            with self.outages[tracker.name].spared(f"finishing the run of {tracker.name}"):
                tracker.finish()
        self.accelerator.trackers = []


def _show_unless_raised_again(met: threading.ExceptHookArgs) -> None:
    """Show the error that ends a thread. What ends tensorboard's, the next line meets, too."""
    if not type(met.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(met)


def start_trackers(
    accelerator: Accelerator, trackers: Sequence[str], run: Path, config: Any
) -> None:
    """Start the trackers of a run. Unless the environment says where, mlflow writes beside the run.

    `Trackers` tells the arguments.

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
