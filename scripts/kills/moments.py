"""The moments of a run at which it is killed: how they are aimed at, and which one it was.

What is aimed at and what is hit differ, since a step goes on while a checkpoint is written. What
was hit is read from what the kill left.
"""

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fcmae.run import checkpoint
from fcmae.run.metrics import count_metrics
from scripts.kills.forked import Start

KEEP = 1  # checkpoint, so that every save ends in a removal
AIMS = ("start", "workers", "step", "step", "save", "save", "renamed", "renamed")
FOUND = ("start", "workers", "step", "save", "renamed", "rotation")


@dataclass(frozen=True)
class Seen:
    """What a run directory holds: numbers of starts and of metrics, and the newest checkpoint."""

    starts: int
    lines: int
    newest: int

    @classmethod
    def of(cls, run: Path) -> "Seen":
        """Look at a run directory, whether or not it exists yet."""
        return cls(starts(run), count_metrics(run), newest_step(run))


def starts(run: Path) -> int:
    """The number of starts that a run has recorded."""
    try:
        return len(json.loads((run / "environment.json").read_text()))
    except FileNotFoundError:
        return 0


def newest_step(run: Path) -> int:
    """The step of the newest checkpoint, 0 without one."""
    newest = checkpoint.latest(run)
    return checkpoint.step_of(newest) if newest else 0


def partial(run: Path, since: float) -> list[Path]:
    """The checkpoints that are half there, being written or removed since that time."""
    # the clock of file systems ticks each few milliseconds
    return [path for path in run.glob("step_*.tmp") if changed(path) >= since - 0.01]


def changed(path: Path) -> float:
    """When a directory was changed or renamed; 0 if it is gone."""
    try:
        return path.stat().st_ctime
    except FileNotFoundError:
        return 0.0


def wait(aim: str, run: Path, before: Seen, start: Start, setup: float, rng: random.Random) -> None:
    """Wait for the moment that is aimed at, and a random while longer, or until the run ends.

    Args:
        aim: one of `AIMS`.
        run: the directory of the run.
        before: what it held when the start began.
        start: the processes.
        setup: seconds that a start takes until it is recorded.
        rng: what moments are drawn from.
    """
    drawn = rng.randint(1, 4)
    happened: dict[str, tuple[Callable[[], bool], float]] = {
        "start": (lambda: True, 1.2 * setup),
        "workers": (lambda: starts(run) > before.starts, 0.3),
        # lines after the checkpoint are dropped when the start is recorded
        "step": (lambda: count_metrics(run) >= before.newest + drawn, 0.1),
        "save": (lambda: any(partial(run, start.began)), 0.05),
        "renamed": (lambda: newest_step(run) > before.newest, 0.005),
    }
    moment, longer = happened[aim]
    if aim != "start":
        start.wait_for(lambda: starts(run) > before.starts)
    start.wait_for(moment)
    until = time.monotonic() + rng.uniform(0, longer)
    start.wait_for(lambda: time.monotonic() >= until)


def found(run: Path, before: Seen, since: float) -> str:
    """Which moment a kill hit, one of `FOUND`, as what it left tells.

    Args:
        run: the directory of the run.
        before: what it held when the start began.
        since: when that was, in seconds of the epoch.
    """
    now = Seen.of(run)
    steps = [int(path.name[5:12]) for path in partial(run, since)]
    if steps:
        return "save" if max(steps) > now.newest else "rotation"
    if now.newest > before.newest and len(checkpoint.checkpoints(run)) > KEEP:
        return "renamed"
    if now.starts == before.starts:
        return "start"
    return "workers" if now.lines <= before.newest else "step"
