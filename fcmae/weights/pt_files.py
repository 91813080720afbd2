"""Reading PyTorch files of weights, without running the code that pickles may hold."""

import argparse
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from torch import Tensor

from fcmae.weights.weight_names import listing
from fcmae.weights.wrappings import state_dicts

# what torch.load raises for files that are cut short, no pickle, or refused
DAMAGED = (UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, struct.error)
DAMAGED += (zipfile.BadZipFile, NotImplementedError)


def read_pt(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """Read a PyTorch file that holds state dicts, in any containers.

    Since pickle may run code, only tensors and plain containers are read (`weights_only`), and
    `argparse.Namespace`, which holds mere attributes: the official programs save their arguments.

    Returns:
        The state dicts by the path of their keys, as `state_dicts` finds them, and all texts in the
        outermost container, among which our metadata may be.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged, or holds other objects, or no tensors.
    """
    size = path.stat().st_size
    try:
        refuse_inflating(path, size)
        with torch.serialization.safe_globals([argparse.Namespace]):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        raise ValueError(f"{path} {reason(error)}") from error
    outer = cast("dict[str, Any]", content) if isinstance(content, Mapping) else {}
    found = state_dicts(outer)
    if not found:
        raise ValueError(
            f"{path} holds no state dict: {len(outer)} entries hold no"
            f" tensors{listing([str(key) for key in outer])}"
        )
    for name, tensor in (pair for tensors in found.values() for pair in tensors.items()):
        if tensor.numel() * tensor.element_size() > size:
            raise ValueError(f"{path} has the tensor {name}, which is larger than the file")
    return found, {key: value for key, value in outer.items() if isinstance(value, str)}


def refuse_inflating(path: Path, size: int) -> None:
    """Check that a zip archive, as torch writes it, does not unpack to more than it has.

    Raises:
        ValueError: it does, or is damaged.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(file.file_size for file in archive.infolist()) > size:
                raise ValueError("it is compressed, which torch does not write")


def reason(error: Exception) -> str:
    """Say why torch does not load a file, and the way out if there is one."""
    code = re.search(r"GLOBAL (\S+) was not an allowed", str(error))
    if code is not None:
        return (
            f"holds a {code[1]}, and pickled objects may run code: where you trust it, save"
            " its state dict alone, torch.save({'model': state_dict}, FILE)"
        )
    if "TorchScript" in str(error):
        return (
            "is a TorchScript archive, which holds code: where you trust it, save its state dict"
            " alone, torch.save({'model': torch.jit.load(PATH).state_dict()}, FILE)"
        )
    return "is damaged or no PyTorch file"
