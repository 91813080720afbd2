"""Weights that are not finite: what a run that diverged left, and what no model can go on from."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor


def refuse_not_finite(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Check that all values of tensors are finite.

    Args:
        tensors: the tensors by name.
        path: where they come from, for the error.

    Raises:
        ValueError: some are NaN or infinite; the message names the first tensors that have any.
    """
    wrong = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"{path} has values that are not finite in {len(wrong)} of {len(tensors)} tensors,"
            f" {', '.join(wrong[:3])}{more}: the training that made it has diverged; take an"
            " earlier checkpoint"
        )
