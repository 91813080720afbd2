"""Weights that no model can go on from: of other types than floats, or not finite.

The latter are what a run that diverged left.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WHOLE = (torch.int32, torch.int64)  # of buffers, such as the counters of batch norms


def refuse_not_finite(
    tensors: Mapping[str, Tensor], path: str | Path, *, buffers: bool = False
) -> None:
    """Check that tensors hold floats, and that all of them are finite.

    Floats of 8 bits are refused, too: they mean nothing without a scale, which is elsewhere.

    Args:
        tensors: the tensors by name.
        path: where they come from, for the error.
        buffers: whether some may be whole numbers, as buffers are.

    Raises:
        ValueError: some are of another type, NaN or infinite; the message names the first of them.
    """
    known = FLOATS + WHOLE * buffers
    for name, tensor in tensors.items():
        if tensor.dtype not in known:
            raise ValueError(
                f"{path} has the tensor {name} of type {tensor.dtype}, and weights are floats of 16"
                " bits or more: convert them where they were saved"
            )
    wrong = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"{path} has values that are not finite in {len(wrong)} of {len(tensors)} tensors,"
            f" {', '.join(wrong[:3])}{more}: the training that made it has diverged; take an"
            " earlier checkpoint"
        )
