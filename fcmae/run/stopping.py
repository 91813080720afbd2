"""Stopping on a signal: all processes finish the same step, save, and exit with a known status.

Schedulers send SIGTERM or SIGUSR1 some time before they take a machine back, to one process or to
all, at moments that differ between processes.
"""

import signal
import sys
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: the same command, started again, goes on
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
STATUS: dict[int, int] = {
    signal.SIGTERM: PREEMPTED,
    signal.SIGUSR1: PREEMPTED,
    signal.SIGINT: INTERRUPTED,
}


class Stop:
    """Tells after each step whether to stop, the same on every process.

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
        for number in STATUS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            print("stopping after this step; Ctrl-C again stops at once", file=sys.stderr)

    def agreed(self) -> int:
        """Return the signal on which all processes stop now, or 0; each calls it once a step."""
        if self.group is None:
            return self.noted
        before = self.sent
        number = torch.tensor(self.noted)
        work = dist.all_reduce(number, dist.ReduceOp.MAX, self.group, async_op=True)
        self.sent = (work, number)
        if before is None:
            return 0
        work, number = before
        work.wait()
        return int(number)
