"""The forward pass of a frozen model: compiled for one size of batch where many images repay it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fcmae.run.compiling import WORTH, eager, tried

Forward = Callable[[Tensor], Tensor]


def frozen(
    model: nn.Module,
    forward: Forward,
    *,
    images: int,
    batch_size: int,
    device: torch.device,
    say: Callable[[str], object],
) -> Forward:
    """Make the forward pass of a model that answers for many images.

    On a GPU of CUDA it is compiled where the images take longer than that, and elsewhere the model
    runs as it is written, even if it was compiled for training.

    Args:
        model: on its device.
        forward: of this model.
        images: that it answers for on this process.
        batch_size: the most of them at a time.
        device: of the model.
        say: prints a line where compiling fails.
    """
    if device.type == "cuda" and images >= WORTH:
        return Filled(model, forward, batch_size, say)

    def as_written(x: Tensor) -> Tensor:
        with eager():
            return forward(x)

    return as_written


class Filled:
    """A compiled forward pass that always sees as many images, so that none is compiled anew.

    A smaller batch is filled up with copies of its last image. If compiling fails, a line says so,
    and the model runs as it is written.

    Args:
        model: is compiled with the first batch.
        forward: of this model.
        batch_size: the most images of a batch.
        say: prints that line.
    """

    def __init__(
        self, model: nn.Module, forward: Forward, batch_size: int, say: Callable[[str], object]
    ) -> None:
        self.model = model
        self.forward = forward
        self.batch_size = batch_size
        self.say = say
        self.begun = False

    def __call__(self, x: Tensor) -> Tensor:
        missing = self.batch_size - len(x)
        whole = torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x
        if not self.begun:
            self.begun = True
            self.compile(whole)
        return self.forward(whole)[: len(x)]

    def compile(self, x: Tensor) -> None:
        """Compile the model by a first forward pass."""
        fixed = torch.are_deterministic_algorithms_enabled()
        tried(lambda: self.forward(x), self.model, self.say, deterministic=fixed)
