"""What a device can reach: the speed of a matrix product, and the products that a step needs.

Of the two sides of a roofline (Williams, Waterman and Patterson 2009) this is the one of products;
a step cannot be faster than its matrix products are at the speed of a large one.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fcmae.run.threads import cores

SIDES = {"cpu": 1024, "cuda": 8192}  # of the matrices that are multiplied; others take the first
RUNS = 5
Shape = Sequence[int]


def name_of(device: torch.device) -> str:
    """The name of a device, as its maker gives it, with its memory; of a CPU, its cores."""
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        return f"{facts.name} ({facts.total_memory / 1e9:.0f} GB)"
    return f"{device.type} with {cores()} cores"


def flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the floating-point operations of a second in one large matrix product.

    Args:
        device: where it runs.
        dtype: of the factors.
    """
    n = SIDES.get(device.type, SIDES["cpu"])
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    times = list[float]()
    for _ in range(1 + RUNS):
        began = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the device
        times.append(time.perf_counter() - began)
    return 2 * n**3 / statistics.median(times[1:])


def product_flops(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    autocast: Callable[[], AbstractContextManager[object]],
) -> float:
    """Count the operations of the matrix products of a forward and backward pass.

    Convolutions count where they are products; depthwise ones do not, since no device computes
    these as it computes products. A multiply-add counts two. The model gets gradients.

    Args:
        model: on its device, and not compiled; its first or only output is differentiated.
        inputs: of the model.
        autocast: makes the context of the forward pass.
    """
    aten = torch.ops.aten
    mapping: dict[Any, Any] = {
        aten.convolution: convolution,
        aten._convolution: convolution,
        aten.convolution_backward: convolution_backward,
        aten.addmm_: addmm,
    }
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with counter:
        with autocast():
            outputs = model(*inputs)
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        first.float().sum().backward()
    return float(counter.get_total_flops())


def convolution(x: Shape, weight: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Of a convolution [b, c, h, w] to [b, d, h', w'] whose channels are mixed."""
    if is_depthwise(weight):
        return 0
    return 2 * out_shape[0] * torch.Size(out_shape[2:]).numel() * torch.Size(weight).numel()


def convolution_backward(grad: Shape, x: Shape, weight: Shape, *rest: Any, **_: Any) -> int:
    """Of both gradients of such a convolution, or of those that are asked for."""
    if is_depthwise(weight):
        return 0
    each = 2 * grad[0] * torch.Size(grad[2:]).numel() * torch.Size(weight).numel()
    return each * sum(rest[-1][:2])


def is_depthwise(weight: Shape) -> bool:
    """Whether each output channel of a kernel [d, c / groups, *k] has one input channel."""
    return weight[1] == 1 and weight[0] > 1


def addmm(total: Shape, a: Shape, b: Shape, **_: Any) -> int:
    """2 m k n of `addmm_`, which PyTorch's counter does not know."""
    return 2 * a[0] * a[1] * b[1]
