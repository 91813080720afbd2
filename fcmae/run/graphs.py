"""Steps as CUDA graphs: a GPU replays a forward or a backward pass as one launch.

A step of a small model is some thousand kernels of microseconds, and a host that launches each of
them by itself is slower than the device that runs them.
"""

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from fcmae.run.compiling import unchanged
from fcmae.run.terminal import cause_of


def record(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    autocast: Callable[[], AbstractContextManager[object]],
) -> None:
    """Record the passes of a model in training, and have every call of it replay them.

    What it gives lies in the same memory after each call. In evaluation it runs as before.

    Args:
        model: see `recorded`.
        inputs: see `recorded`.
        autocast: see `recorded`.

    Raises:
        ValueError: they cannot be recorded. The process should end: PyTorch does not clean up.
    """
    try:
        step = recorded(model, inputs, autocast)
    except Exception as error:  # whatever cannot be recorded, or does not fit into memory
        raise ValueError(
            f"run.cuda_graphs=True: a step cannot be recorded ({cause_of(error)}): leave it out"
        ) from error
    before = model.forward

    def forward(*args: Tensor) -> object:
        return loss_alone(step(*args)) if model.training else before(*args)

    model.forward = forward


def recorded(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    autocast: Callable[[], AbstractContextManager[object]],
) -> nn.Module:
    """Make a module that replays the passes of a model in training, which stays as it is.

    Args:
        model: on a GPU, not distributed, and compiled if it is to be; each forward pass launches
            the same kernels, and the host neither reads nor decides anything in it. It returns a
            loss, a tensor, and at most one dictionary of tensors without gradients.
        inputs: of a step, with any values; all steps have these shapes.
        autocast: makes the context in which forward passes run; backward passes run outside.

    Raises:
        Exception: they cannot be recorded.
    """
    gc.collect()  # autograd's nodes of earlier passes, which belong to another stream
    step = Step(model, autocast)
    with unchanged(model, inputs):
        torch.cuda.make_graphed_callables(step, inputs, allow_unused_input=True)
    # or autograd would sum gradients up on the stream of the recording, which its graph holds
    step.loss.detach_()
    return step


class Step(nn.Module):
    """The forward pass of a model in training.

    Args:
        model: see `recorded`.
        autocast: see `recorded`.
    """

    def __init__(
        self, model: nn.Module, autocast: Callable[[], AbstractContextManager[object]]
    ) -> None:
        super().__init__()
        self.model = model
        self.autocast = autocast
        self.loss = torch.empty(0)

    def forward(self, *inputs: Tensor) -> tuple[Any, ...]:
        """Compute the outputs of the model."""
        with self.autocast():
            torch.set_autocast_cache_enabled(False)  # a cast weight would be that of the recording
            self.loss, *others = loss_alone(self.model(*inputs))
        return self.loss, *others


def loss_alone(outputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Cut all outputs but the loss off from their gradients."""
    loss, prediction, *terms = outputs
    figures = ({name: value.detach() for name, value in each.items()} for each in terms)
    return loss, prediction.detach(), *figures


def own_gradients(model: nn.Module) -> None:
    """Copy the gradients of a model out of the memory of graphs, which the next replay fills.

    Without it, gradients of micro-batches would be summed up wrongly (pytorch/pytorch#181723).
    """
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad = parameter.grad.clone()
