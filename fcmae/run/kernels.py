"""The kernels that steps run on a device, as PyTorch's profiler sees them."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

NO_KERNEL = re.compile(r"^(ProfilerStep|Optimizer\.|## |Torch-Compiled|\w+ Sync$|\w+ Wait)")


@dataclass(frozen=True)
class Kernel:
    """A kernel; on a CPU, an operator of PyTorch, without those that it calls."""

    name: str
    ms: float
    """Milliseconds of the device in one step."""
    launches: float
    """Calls in one step."""


@contextmanager
def kernels_of(device: torch.device, steps: int) -> Iterator[list[Kernel]]:
    """Profile the block; at its end the list has its kernels, those that take longest first.

    Args:
        device: where they run.
        steps: the number of steps that the block takes.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it complains where there is no GPU
    found = list[Kernel]()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)  # kernels that were launched before are none of the block's
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        yield found
        if on_gpu:
            torch.cuda.synchronize(device)
    totals: dict[str, tuple[float, int]] = {}
    for event in seen.events() or ():
        if (event.device_type.name != "CPU") is on_gpu and not NO_KERNEL.match(event.name):
            if getattr(event, "is_user_annotation", False):  # a range of kernels, not one of them
                continue
            own = event.device_time_total if on_gpu else event.self_cpu_time_total
            spent, count = totals.get(event.name, (0.0, 0))
            totals[event.name] = (spent + own, count + 1)
    kernels = (Kernel(n, us / 1e3 / steps, count / steps) for n, (us, count) in totals.items())
    found += sorted(kernels, key=lambda kernel: -kernel.ms)
