"""Stopping on a signal: all processes finish the same step, save, and leave with a known status.

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
    """Whether to stop after a step: the same answer, at the same step, on every process.

    SIGTERM, SIGUSR1 and the first Ctrl-C are noted, and the second Ctrl-C acts at once. Where there
    are several processes, each step sends what has been noted to all others, in the background and
    through main memory, and the next step reads what came: nothing waits, and no device is asked.

    Args:
        timeout: seconds until a process that does not answer counts as lost.
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
        """The signal on which all processes stop now, or 0. To be called once a step by each."""
        if self.group is None:
            return self.noted
        before, number = self.sent, torch.tensor(self.noted)
        work = dist.all_reduce(number, dist.ReduceOp.MAX, self.group, async_op=True)
        self.sent = (work, number)
        if before is None:
            return 0
        work, number = before
        work.wait()
        return int(number)
