"""One model over several processes as shards of its parameters (FSDP2, `fully_shard`).

Each unit gathers its parameters when it needs them (Zhao et al. 2023, arXiv 2304.11277; ZeRO-3).
Replicas (DDP) need nothing from here: Accelerate makes them.
"""

import os
import warnings

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def is_wanted(world: int) -> bool:
    """Whether accelerate's config asks for FSDP, and there are several processes to shard over.

    The switch is accelerate's own, `ACCELERATE_USE_FSDP`, which `accelerate launch` sets. Its
    implementation of FSDP2 is not for CPUs, where ours is tested.
    """
    switch = os.environ.get("ACCELERATE_USE_FSDP", "false").lower()
    return switch in ("true", "1") and world > 1


def shard(model: nn.Module, unit: type[nn.Module], device: torch.device, world: int) -> None:
    """Split the parameters of each `unit` in a model, and of the rest, over processes, in place.

    Args:
        model: with the same values on every process.
        unit: the class of the modules that gather their parameters together, such as a block.
        device: of the model.
        world: the number of processes.
    """
    # it warns of outputs that are views, for those who would write into them
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
    mesh = init_device_mesh(device.type, (world,))
    for module in model.modules():
        if isinstance(module, unit):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
