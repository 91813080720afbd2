"""Stopping on a signal: all processes finish the same step, save, and exit with a known status.

Checkpoints that are due by the clock are agreed on in the same way.

Schedulers send SIGTERM or SIGUSR1 some time before they take a machine back, to one process or to
all, at moments that differ between processes.
"""

import signal
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from fcmae.run.lock import say_stopping
from fcmae.run.outages import tell
from fcmae.run.pieces import PREEMPTED

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
STATUS: dict[int, int] = {
    signal.SIGTERM: PREEMPTED,
    signal.SIGUSR1: PREEMPTED,
    signal.SIGINT: INTERRUPTED,
}


class Stop:
    """Tells after each step whether to stop or to save, the same on every process.

    SIGTERM, SIGUSR1 and the first Ctrl-C are noted; the second Ctrl-C acts at once. Several
    processes send what they noted to each other in each step, in the background and through main
    memory, and read it in the next step, so that nothing waits, neither here nor on a device.

    Args:
        timeout: seconds after which a process that does not answer counts as lost.
    """

    def __init__(self, timeout: float) -> None:
        self.noted = 0
        self.group: Any = None
        self.sent: tuple[Any, Tensor] | None = None
        if dist.is_initialized():
            self.group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
        self.before = {number: signal.signal(number, self._note) for number in STATUS}

    def release(self) -> None:
        """Let those have the signals again that had them before."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = number
        say_stopping()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            tell("stopping after this step; Ctrl-C again stops at once", error=True)

    def agreed(self, due: bool) -> tuple[int, bool]:
        """Return the signal on which all processes stop now, or 0, and whether all save now.

        Each process calls it once a step.

        Args:
            due: whether a checkpoint is due by the clock of this process.
        """
        if self.group is None:
            return self.noted, due
        before = self.sent
        noted = torch.tensor([self.noted, int(due)])
        work = dist.all_reduce(noted, dist.ReduceOp.MAX, self.group, async_op=True)
        self.sent = (work, noted)
        if before is None:
            return 0, False
        work, noted = before
        work.wait()
        number, some_due = noted.tolist()
        if number:  # perhaps of another process
            say_stopping()
        return number, bool(some_due)
