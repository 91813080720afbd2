"""A model whose parameters are split over several processes (FSDP2, `fully_shard`).

Each unit gathers its parameters when it needs them (Zhao et al. 2023, arXiv 2304.11277; ZeRO-3).
Replicas (DDP) are made by Accelerate, without this module.
"""

import os
import warnings

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def is_wanted(world: int) -> bool:
    """Whether accelerate's config asks for FSDP, and there are several processes to shard over.

    `accelerate launch` sets the environment variable `ACCELERATE_USE_FSDP` for it. Accelerate's
    implementation of FSDP2 does not run on CPUs; `shard` does.
    """
    switch = os.environ.get("ACCELERATE_USE_FSDP", "false").lower()
    return switch in ("true", "1") and world > 1


def shard(
    model: nn.Module, units: tuple[type[nn.Module], ...], device: torch.device, world: int
) -> None:
    """Split the parameters of a model over processes, in place.

    Args:
        model: the model, with the same values on every process.
        units: the classes of the modules that gather their parameters together, such as a block.
        device: the device of the model.
        world: the number of processes.
    """
    # its warning is for programs that write into outputs, which may be views
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
    mesh = init_device_mesh(device.type, (world,))
    for module in model.modules():
        if isinstance(module, units):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
