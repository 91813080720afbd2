"""Encoder weights under the official names, for the code of ConvNeXt V2's authors.

Their fine-tuning takes what their pretraining saves, and remaps it first: it turns kernels of
MinkowskiEngine into weights of convolutions, and adds two axes in front of GRN's `[1, 4d]`,
whatever its shape is. Tensors that then have a wrong shape are left out, which is only printed. So
GRN is `[1, 4d]` in both of the files that are written here.
"""

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from fcmae.run.files import replacing
from fcmae.weights.convmaes import to_public
from fcmae.weights.metadata import Metadata, header_for
from fcmae.weights.weight_names import CLASSIFIER, FINAL_NORM, complete, table


def to_official(tensors: Mapping[str, Tensor], metadata: Metadata) -> dict[str, Tensor]:
    """Rename an encoder's tensors as the official dense model has them, with a final norm.

    GRN is `[1, 4d]`, see above; the dense model itself has it as `[1, 1, 1, 4d]`. Those of ConvMAE
    have the names of its authors' checkpoints.

    Args:
        tensors: the weights under our names, such as an encoder's state dict.
        metadata: their metadata.
    """
    if metadata.architecture.is_convmae:
        return to_public(tensors, metadata.architecture)
    names = {row.ours: row.dense for row in table(metadata.architecture)}
    return {
        names[name]: (tensor.view(1, -1) if ".grn." in name else tensor).contiguous()
        for name, tensor in complete(tensors).items()
    }


def to_official_sparse(tensors: Mapping[str, Tensor], metadata: Metadata) -> dict[str, Tensor]:
    """Rename and reshape an encoder's tensors as the official sparse model has them.

    Its stem is dense, the other convolutions are MinkowskiEngine's; it has no final norm.

    Args:
        tensors: the weights under our names, such as an encoder's state dict.
        metadata: their metadata.

    Raises:
        ValueError: there is a classifier, which the sparse model has not, or the encoder is V1.
    """
    if any(name.startswith(CLASSIFIER) for name in tensors):
        raise ValueError("the official sparse model has no classifier: take --to official")
    if not metadata.architecture.has_grn:
        raise ValueError(f"{metadata.model} has no official sparse model: take --to official")
    named: dict[str, Tensor] = {}
    for row in table(metadata.architecture):
        if row.ours.startswith((FINAL_NORM, CLASSIFIER)):
            continue
        tensor = tensors[row.ours]
        layer = row.sparse.rpartition(".")[0]
        if row.ours.startswith("stem."):
            named[row.dense] = tensor
        elif row.sparse.endswith(".kernel"):
            named[row.sparse] = to_kernel(tensor)
        elif f"{layer}.kernel" in named or ".grn." in row.sparse:
            named[row.sparse] = tensor.view(1, -1)
        else:
            named[row.sparse] = tensor
    return {name: tensor.contiguous() for name, tensor in named.items()}


def to_kernel(weight: Float[Tensor, "o i k k"]) -> Tensor:
    """Turn a convolution's weight into a kernel of MinkowskiEngine, `[k k, i, o]`.

    A depthwise one is `[k k, o]`. The site (row, column) is at row + k column.
    """
    kernel = rearrange(weight, "o i h w -> (w h) i o")
    return kernel.squeeze(1) if weight.shape[1] == 1 else kernel


def save_official(
    path: Path, tensors: dict[str, Tensor], metadata: Metadata, extra_header: Mapping[str, str]
) -> None:
    """Write a PyTorch file with official weights under the key `model`, and the header next to it.

    Raises:
        OSError: the file cannot be written.
    """
    # in memory first: torch names the archive in a file after it, and hides why it cannot write one
    content = io.BytesIO()
    torch.save({"model": tensors, **header_for(metadata, extra_header)}, content)
    with replacing(path) as partial:
        partial.write_bytes(content.getbuffer())
