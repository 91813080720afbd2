"""Reading the weights out of an ONNX file of ours, whose initialisers have their names."""

from pathlib import Path

import torch
from torch import Tensor

from fcmae.run.extras import extra
from fcmae.weights.finite import refuse_not_finite
from fcmae.weights.metadata import HEADER
from fcmae.weights.weight_names import FINAL_NORM

WEIGHTS = "model."  # before the names of weights, and of no other initialiser
DESCRIBED = ("input", "normalisation", "mean", "std")  # for who runs the file: HEADER has it too


def read_onnx(path: Path) -> tuple[dict[str, Tensor], dict[str, str], tuple[str, ...]]:
    """Read the weights in an ONNX file that this project wrote.

    Returns:
        The weights in float32 under the names and in the shapes of the exported model, the header
        of our files, and sentences on what of the exported weights is not in the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged, or not ours, or has values that are no finite floats.
        ModuleNotFoundError: the extra `export` is missing.
    """
    with extra("export", f"reading {path} needs"):
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import numpy_helper
    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"{path} is damaged or no ONNX file: {error}") from error
    header = {entry.key: entry.value for entry in model.metadata_props}
    if HEADER not in header:
        raise ValueError(
            f"{path} is an ONNX file of another program, whose exporter may have renamed, merged or"
            " transposed the weights: give what it was exported from"
        )
    stored = dict[str, Tensor]()
    for initialiser in model.graph.initializer:
        if not initialiser.name.startswith(WEIGHTS):
            continue
        name = initialiser.name.removeprefix(WEIGHTS)
        try:
            if initialiser.data_location == onnx.TensorProto.EXTERNAL:
                raise ValueError("it lies in another file, and ours have all in one")
            stored[name] = torch.from_numpy(numpy_helper.to_array(initialiser).copy())
        except (ValueError, TypeError, LookupError, RuntimeError) as error:
            raise ValueError(f"{path} has the damaged tensor {name}: {error}") from error
    refuse_not_finite(stored, path)
    notes = list[str]()
    if any(tensor.dtype == torch.float16 for tensor in stored.values()):
        notes.append("the ONNX file has its weights in half precision: taken as float32")
    convnext = any(name.startswith("stem.") for name in stored)
    if convnext and not any(FINAL_NORM in name for name in stored):
        notes.append("the ONNX file has no final norm, which its outputs do not pass")
    tensors = {name: tensor.float() for name, tensor in stored.items()}
    return tensors, {k: v for k, v in header.items() if k not in DESCRIBED}, tuple(notes)
