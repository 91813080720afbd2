"""An exponential moving average of a module's parameters (Polyak and Juditsky 1992).

Running statistics of batch norm are averaged along: they belong to the averaged weights.
"""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """Averages of the parameters of a module, by name, on the same device and split alike.

    The decay of step t is min(decay, (1 + t) / (10 + t)), so that the average of a short run is not
    dominated by its beginning.

    Args:
        module: the module whose parameters are averaged.
        decay: the decay of the average, in [0, 1).
        prefix: what stands in front of the names.

    Raises:
        ValueError: the decay is outside [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float, prefix: str = "") -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"optim.ema={decay} must lie in [0, 1); 0.9999 is usual")
        self.decay = decay
        state = (*module.named_parameters(), *module.named_buffers())
        self.parameters = {prefix + n: t.detach() for n, t in state if t.is_floating_point()}
        self.averages = {name: p.clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the parameters after step `step`, counted from 0."""
        average = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        own, new = ([local(t) for t in d.values()] for d in (self.averages, self.parameters))
        average(own, new, step)


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
