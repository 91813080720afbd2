"""Work done in pieces: seconds counted over all calls, failures passed over, a signal that ends it.

A long command makes its runs one after another, each once. It is stopped by a signal and started
again as often as one likes, so that hours of work fit into hours that are free.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from fcmae.run.files import write_json
from fcmae.run.json_files import read_json
from fcmae.run.terminal import say

PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: the same command, started again, goes on


def processor_seconds() -> float:
    """Seconds that processors have spent on this process and on children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


@contextmanager
def adding_seconds(
    path: Path, name: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Add the seconds that the body takes to those of earlier calls, also when it is stopped.

    Args:
        path: a JSON file of seconds by name.
        name: of what is timed.
        clock: what counts seconds.

    Raises:
        OSError: the file cannot be written.
        ValueError: it is damaged.
    """
    began = clock()
    try:
        yield
    finally:
        seconds = read_json(path, dict) if path.is_file() else {}
        seconds[name] = seconds.get(name, 0) + clock() - began
        write_json(path, seconds)


def attempt(name: str, work: Callable[[], object], failed: list[str]) -> None:
    """Do some work; where it fails, say so, and let the others go on.

    Args:
        name: what it is about.
        work: what is done.
        failed: gets the name and the reason.

    Raises:
        SystemExit: a signal came, see `ending_on_signals`.
    """
    try:
        with ending_on_signals():
            work()
    except (OSError, ValueError, FloatingPointError, ModuleNotFoundError) as error:
        failed.append(f"{name}: {error}")
        say(f"failed: {failed[-1]}")


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """End the program with the status 75 where SIGTERM or SIGUSR1 comes in the body.

    A run that trains in the body takes these signals over until its end, and is saved first.
    """

    def end(number: int, frame: FrameType | None) -> None:
        say(f"{signal.Signals(number).name}: stopped; the same command goes on", error=True)
        sys.exit(PREEMPTED)

    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def strip(run: Path) -> None:
    """Remove the checkpoints and weights of a finished run, whose records are kept.

    Args:
        run: its directory; that of several runs in folders of their own is stripped as well.
    """
    for model in [*run.rglob("step_*/model.safetensors")]:  # of VGG-16 they are gigabytes
        shutil.rmtree(model.parent)
    for weights in run.rglob("weights.safetensors"):
        weights.unlink()
