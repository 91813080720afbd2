"""Which kernels fill a training step, and in which share of it the device is busy."""

import re

import torch

from fcmae.run.kernels import kernels_of
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


def kind_of(name: str) -> str:
    """What a kernel does, by its name: products, norms and so on."""
    kinds = FUSED if name.startswith("triton_") else KINDS
    found = (k for k, pattern in kinds.items() if re.search(pattern, name, re.IGNORECASE))
    return next(found, "other")


def show_profile(title: str, work: Work, seconds: float, device: torch.device) -> None:
    """Print where the time of a step goes.

    Args:
        title: names the step.
        work: the step, which ends when the device is done.
        seconds: what it takes when nobody looks.
        device: where it runs.
    """
    with kernels_of(device, STEPS) as kernels:
        for _ in range(STEPS):
            work()
    busy = sum(kernel.ms for kernel in kernels)
    step = 1e3 * seconds
    launches = sum(kernel.launches for kernel in kernels)
    say(
        f"{title}: {step:.1f} ms a step, kernels {busy:.1f} ms, so the device is busy for"
        f" {min(1.0, busy / step):.0%} of it; {launches:.0f} launches"
    )
    by_kind: dict[str, tuple[float, float]] = {}
    for kernel in kernels:
        ms, count = by_kind.get(kind_of(kernel.name), (0.0, 0.0))
        by_kind[kind_of(kernel.name)] = (ms + kernel.ms, count + kernel.launches)
    ordered = sorted(by_kind.items(), key=lambda item: -item[1][0])
    print_table(
        "by kind",
        ["kind", "ms", "share", "launches"],
        [(k, f"{ms:.2f}", f"{ms / max(busy, 1e-9):.0%}", f"{c:.0f}") for k, (ms, c) in ordered],
    )
    print_table(
        f"the {MOST} kernels that take longest",
        ["ms", "launches", "kind", "kernel"],
        [
            (f"{k.ms:.3f}", f"{k.launches:.0f}", kind_of(k.name), k.name[:110])
            for k in kernels[:MOST]
        ],
    )
