"""The cores that a program may use, and its threads on them.

`accelerate launch` and torchrun set OMP_NUM_THREADS=1 for whoever has not set it, so that a program
would leave all cores but one idle. OpenMP reads its variables when torch is imported: programs call
`use_threads` before that.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fcmae.run.ranges import WorkersFrom1

Threads = WorkersFrom1 | Literal["auto"]
LAUNCHERS = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")  # what they set besides


@dataclass(frozen=True, kw_only=True)
class ThreadsConfig:
    """How many threads a program computes with."""

    threads: Threads = "auto"
    """Threads of each process. auto: as OMP_NUM_THREADS says; without it, or if a launcher has set
    it to 1, all cores that the process may use, shared by the processes of its node."""


def cores() -> int:
    """Count the cores that this process may use, of which a container may allow a part."""
    from loky import cpu_count  # affinity, quotas of cgroups, on every system

    return cpu_count()


def thread_count(wanted: Threads, environment: Mapping[str, str]) -> int:
    """Count the threads of a process.

    Args:
        wanted: a number, or "auto": what OMP_NUM_THREADS says, unless a launcher has set it to 1;
            without it, the cores over the processes of this node.
        environment: the variables of the process.
    """
    if wanted != "auto":
        return wanted
    told = environment.get("OMP_NUM_THREADS", "").partition(",")[0]  # others are for nested loops
    launched = any(name in environment for name in LAUNCHERS)
    if told.isdecimal() and int(told) > (1 if launched else 0):
        return int(told)
    return max(1, cores() // int(environment.get("LOCAL_WORLD_SIZE", "1")))


def use_threads(wanted: Threads) -> int:
    """Let this process compute with so many threads, which sleep while they wait.

    Threads that spin, OpenMP's default, slow a training step several times over as soon as a data
    worker runs on the same cores.

    Returns:
        The number of threads.
    """
    count = thread_count(wanted, os.environ)
    os.environ["OMP_NUM_THREADS"] = str(count)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "torch" in sys.modules:  # it has read the variables already
        sys.modules["torch"].set_num_threads(count)
    return count
