"""Steps as CUDA graphs: a GPU replays a forward or a backward pass as one launch.

A step of a small model is some thousand kernels of microseconds, and a host that launches each of
them by itself is slower than the device that runs them.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from fcmae.run.compiling import unchanged
from fcmae.run.terminal import line_of

LONGEST = 300  # letters of the error that a line tells


def replayed(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    autocast: Callable[[], AbstractContextManager[object]],
    say: Callable[[str], object],
) -> bool:
    """Record the passes of a model in training, and have every call of it replay them.

    Its loss, and what else it gives, lie in the same memory after each call. In evaluation it runs
    as before.

    Args:
        model: on a GPU, not distributed, and compiled if it is to be; each forward pass launches
            the same kernels, and the host neither reads nor decides anything in it. The first of
            its outputs is the loss.
        inputs: of a step, with any values; all steps have these shapes.
        autocast: makes the context in which forward passes run.
        say: prints a line where it fails.

    Returns:
        Whether it is recorded. If not, the model stays as it is.
    """
    try:
        record(model, inputs, autocast)
    except Exception as error:  # whatever cannot be recorded, or does not fit into memory
        why = f"{type(error).__name__}: {line_of(error)}"[:LONGEST]
        say(f"not recorded as a CUDA graph, so that each kernel is launched by itself ({why})")
        return False
    return True


def record(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    autocast: Callable[[], AbstractContextManager[object]],
) -> None:
    """Record the passes in place; see `replayed`."""
    step = recorded(model, inputs, autocast)
    before = model.forward

    def forward(*args: Tensor) -> object:
        return step(*args) if model.training else before(*args)

    model.forward = forward


def recorded(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    autocast: Callable[[], AbstractContextManager[object]],
) -> nn.Module:
    """Make a module that replays the passes of a model; see `replayed` for the arguments.

    Raises:
        RuntimeError: they cannot be recorded.
    """
    step = LossAlone(model)
    with unchanged(model, inputs), autocast():
        torch.set_autocast_cache_enabled(False)  # a cast weight would be that of the recording
        torch.cuda.make_graphed_callables(step, inputs, allow_unused_input=True)
    # or autograd would sum gradients up on the stream of the recording, which its graph holds
    step.loss.detach_()
    return step


class LossAlone(nn.Module):
    """A model in training of whose outputs the first alone has a gradient.

    Args:
        model: returns a tuple.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.loss = torch.empty(0)

    def forward(self, *inputs: Tensor) -> tuple[Any, ...]:
        """Compute the outputs of the model; the second one, a tensor, is detached."""
        self.loss, prediction, *others = self.model(*inputs)
        return self.loss, prediction.detach(), *others


def own_gradients(model: nn.Module) -> None:
    """Copy the gradients of a model out of the memory of graphs, which the next replay fills.

    Without it, gradients of micro-batches would be summed up wrongly (pytorch/pytorch#181723).
    """
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad = parameter.grad.clone()
