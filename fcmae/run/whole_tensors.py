"""Whole tensors of a model that may be split over processes: copied out of it, and into it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(named: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Copy tensors to main memory, gathered if they are in shards; every process has to call it.

    Args:
        named: the tensors by name.
        keep: whether this process wants the copies; without it, it gets an empty dictionary.
    """
    copies = {}
    for name, value in named.items():
        tensor = value.full_tensor() if isinstance(value, DTensor) else value
        if keep:
            copies[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return copies


def like(target: Tensor, value: Tensor) -> Tensor:
    """Copy `value` to the device of `target`, split over processes and laid out as `target` is."""
    if isinstance(target, DTensor):  # every process has read all of it: nothing is sent
        value = value.to(target.device)
        return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
    # the fused AdamW goes through a channels-last parameter and its moments side by side
    return torch.empty_like(target, dtype=value.dtype).copy_(value)


@torch.no_grad()
def fill(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into the tensors `own` of the same names, strictly.

    Args:
        own: the tensors that are overwritten.
        tensors: the values.
        path: where the values come from, for the error.

    Raises:
        ValueError: names or shapes differ, or one has floats and the other none; the message lists
            the first few.
    """
    wrong = sorted(tensors.keys() ^ own.keys())
    both = sorted(tensors.keys() & own.keys())
    wrong += [k for k in both if kind_of(tensors[k]) != kind_of(own[k])]
    if wrong:
        raise ValueError(
            f"{path} holds another model: {len(wrong)} tensors differ in name, shape or type,"
            f" such as {', '.join(wrong[:3])}; use the model options that it was made with"
        )
    for name, tensor in own.items():
        tensor.copy_(like(tensor, tensors[name]))


def kind_of(tensor: Tensor) -> tuple[torch.Size, bool]:
    """What a tensor has in common with one that it can be copied into: its shape, and floats."""
    return tensor.shape, tensor.is_floating_point()
