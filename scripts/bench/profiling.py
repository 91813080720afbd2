"""Which kernels fill a training step, and in which share of it the device is busy."""

import re
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from fcmae.run.tables import print_table
from fcmae.run.terminal import say
from scripts.bench.timing import Work

STEPS = 3
MOST = 25
# the first pattern that a kernel's name has tells its kind
KINDS = {
    "optimiser": r"multi_tensor|adam",
    "depthwise": r"depthwise|conv|fprop|dgrad|wgrad",
    "attention": r"attention|flash|fmha|softmax",
    "products": r"gemm|cutlass|nvjet|cublas|splitk|wgmma|::(add|b)?mm$|::linear",
    "norms": r"layer_?norm|welford|rsqrt",
    "sums": r"reduce|::(sum|mean|linalg_vector_norm)",
    "copies and indexing": r"memcpy|memset|copy|cat_?array|index|gather|scatter|sort|clone|tonhwc",
    "element-wise": r"elementwise|vectorized|gelu|::(fill|mul|add|sub|div|square|sqrt|pow)",
}
# likewise of kernels that Inductor writes, whose names list what they fuse
FUSED = {
    "products": r"^triton_tem",
    "norms": r"layer_norm",
    "sums": r"^triton_(red|per)",
    "element-wise": r"gelu|mul|add|sub|div|pow|sqrt|sum|mean",
    "copies and indexing": r"",
}
NO_KERNEL = re.compile(r"^(ProfilerStep|Optimizer\.|## |Torch-Compiled|\w+ Sync$|\w+ Wait)")


@dataclass(frozen=True)
class Kernel:
    """A kernel of a step."""

    name: str
    ms: float
    """Milliseconds of the device in one step."""
    launches: float
    """Calls in one step."""

    @property
    def kind(self) -> str:
        return kind_of(self.name)


def kind_of(name: str) -> str:
    """What a kernel does, by its name: products, norms and so on."""
    kinds = FUSED if name.startswith("triton_") else KINDS
    found = (k for k, pattern in kinds.items() if re.search(pattern, name, re.IGNORECASE))
    return next(found, "other")


def kernels_of(work: Work, device: torch.device) -> list[Kernel]:
    """Profile a few runs of a step; its kernels, those that take longest first.

    Args:
        work: one step, which ends when the device is done.
        device: where it runs; on a CPU, PyTorch's operators stand in for kernels.
    """
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        for _ in range(STEPS):
            work()
    totals: dict[str, tuple[float, int]] = {}
    for event in seen.events() or ():
        if (event.device_type != DeviceType.CPU) is on_gpu and not NO_KERNEL.match(event.name):
            if getattr(event, "is_user_annotation", False):  # a range of kernels, not one of them
                continue
            own = event.device_time_total if on_gpu else event.self_cpu_time_total
            spent, count = totals.get(event.name, (0.0, 0))
            totals[event.name] = (spent + own, count + 1)
    kernels = [Kernel(n, us / 1e3 / STEPS, count / STEPS) for n, (us, count) in totals.items()]
    return sorted(kernels, key=lambda kernel: -kernel.ms)


def show_profile(title: str, work: Work, seconds: float, device: torch.device) -> None:
    """Print where the time of a step goes.

    Args:
        title: names the step.
        work: the step, which ends when the device is done.
        seconds: what it takes when nobody looks.
        device: where it runs.
    """
    kernels = kernels_of(work, device)
    busy = sum(kernel.ms for kernel in kernels)
    step = 1e3 * seconds
    launches = sum(kernel.launches for kernel in kernels)
    say(
        f"{title}: {step:.1f} ms a step, kernels {busy:.1f} ms, so the device is busy for"
        f" {min(1.0, busy / step):.0%} of it; {launches:.0f} launches"
    )
    by_kind: dict[str, tuple[float, float]] = {}
    for kernel in kernels:
        ms, count = by_kind.get(kernel.kind, (0.0, 0.0))
        by_kind[kernel.kind] = (ms + kernel.ms, count + kernel.launches)
    ordered = sorted(by_kind.items(), key=lambda item: -item[1][0])
    print_table(
        "by kind",
        ["kind", "ms", "share", "launches"],
        [(k, f"{ms:.2f}", f"{ms / max(busy, 1e-9):.0%}", f"{c:.0f}") for k, (ms, c) in ordered],
    )
    print_table(
        f"the {MOST} kernels that take longest",
        ["ms", "launches", "kind", "kernel"],
        [(f"{k.ms:.3f}", f"{k.launches:.0f}", k.kind, k.name[:110]) for k in kernels[:MOST]],
    )
