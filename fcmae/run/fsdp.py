"""One model over several processes as shards of its parameters (FSDP2, `fully_shard`).

Each block gathers its parameters when it needs them (Zhao et al. 2023, arXiv 2304.11277; ZeRO-3).
Replicas (DDP) need nothing from here: Accelerate makes them.
"""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from fcmae.layers import Block
from fcmae.model import FCMAE


def shard(model: FCMAE, device: torch.device, world: int) -> None:
    """Split the parameters of each block, and of the rest, over `world` processes, in place.

    Every process has to hold the same values.
    """
    # it warns of outputs that are views, for those who would write into them
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
    mesh = init_device_mesh(device.type, (world,))
    for module in model.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def gradient_norm(model: torch.nn.Module, limit: float | None) -> Float[Tensor, ""]:
    """Norm of the whole gradient, on its device; with a limit, the gradient is scaled down to it.

    Source: Pascanu et al. 2013.
    """
    if limit is None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
    else:
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
