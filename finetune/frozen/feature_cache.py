"""Features that are kept for the next program that needs them, with a sum that says they are whole.

The sum is that of the tensors and of the name of the file, which is a hash of what they depend on.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load, save_file
from torch import Tensor

from fcmae.run.files import replacing

SUM = "sha256"  # beside the tensors


def read_kept(path: Path, say: Callable[[str], object]) -> dict[str, Tensor] | None:
    """Read tensors that were kept; None if there are none, or if they are not those any more.

    Args:
        path: of the file.
        say: prints a sentence about a file that is passed over.
    """
    if not path.exists():
        return None
    try:
        tensors = load(path.read_bytes())
        told = tensors.pop(SUM).tolist()
        if told == list(sum_of(path, tensors)):
            return tensors
        why = "it differs from its SHA-256"
    except Exception as error:  # whatever a library makes of bytes that anyone may have changed
        why = f"{type(error).__name__}: {error}"
    say(f"{path} is damaged, or of an earlier version ({why}): the features are made again")
    return None


def keep(path: Path, tensors: Mapping[str, Tensor], say: Callable[[str], object]) -> None:
    """Keep tensors, whole or not at all.

    Args:
        path: of the file.
        tensors: contiguous ones, on the CPU.
        say: prints a sentence if they cannot be kept, which costs time and no result.
    """
    noted = torch.tensor(list(sum_of(path, tensors)), dtype=torch.uint8)
    try:
        with replacing(path) as partial:
            save_file({**tensors, SUM: noted}, partial)
    except OSError as error:
        say(f"{error}; the features are not kept")


def sum_of(path: Path, tensors: Mapping[str, Tensor]) -> bytes:
    """The SHA-256 of the name of a file, and of the names, types, shapes and values in it."""
    digest = hashlib.sha256(path.name.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f" {name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.digest()
