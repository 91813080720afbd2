"""Names and shapes of an encoder's weights: ours, timm's, the official ones, transformers' two.

One table holds every tensor's names. Ours are timm's, whose smaller models hold linear layers as
1x1 convolutions. The official sparse model differs from the official dense one in the layers of
MinkowskiEngine: its convolutions hold a `kernel` `[k k, c_in, c_out]` (`[k k, c]` if
depthwise, `[c_in, c_out]` if 1x1) whose first spatial axis, the rows, runs fastest, and biases
`[1, c]`; its linear layers and norms are wrapped. GRN's two tensors are `[1, 1, 1, 4d]` in the
dense model and `[1, 4d]` in the sparse one. Transformers has the dense model's shapes, and names of
its own for DINOv3's ConvNeXt, which is V1.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fcmae.architecture import Architecture
from fcmae.encoder import Encoder

FINAL_NORM = "head.norm."  # our prefix for what FCMAE does not train
CLASSIFIER = "head.fc."  # our prefix for what fine-tuning adds
VIT_CLASSIFIER = "head."  # the same of a vision transformer


class Row(NamedTuple):
    """The names of one tensor: ours, the official dense and sparse ones, and transformers' two."""

    ours: str
    dense: str
    sparse: str
    hf: str
    dinov3: str


def shapes_of(architecture: Architecture) -> dict[str, torch.Size]:
    """List the shape of each tensor of the encoder, under our names.

    Raises:
        ValueError: there is no such encoder.
    """
    with torch.device("meta"):
        encoder = Encoder(architecture)
    return {name: tensor.shape for name, tensor in encoder.state_dict().items()}


def optional_shapes(architecture: Architecture) -> dict[str, torch.Size]:
    """List the shapes of what a file may have beside the encoder: the final norm."""
    return {f"{FINAL_NORM}{leaf}": torch.Size([architecture.dim]) for leaf in ("weight", "bias")}


def table(architecture: Architecture) -> list[Row]:
    """List the names of all tensors of an encoder, of the final norm, and of the classifier."""
    rows: list[Row] = []

    def add(names: tuple[str, str, str, str], wrapper: str = "", weight: str = "weight") -> None:
        for leaf in ("weight", "bias"):
            ours, dense, hf, dinov3 = (f"{name}.{leaf}" for name in names)
            sparse = f"{names[1]}.{wrapper}{weight if leaf == 'weight' else leaf}"
            rows.append(Row(ours, dense, sparse, hf, dinov3))

    def inside(parents: tuple[str, str, str, str], *children: str) -> tuple[str, str, str, str]:
        """Name a layer in each naming: a child of these parents."""
        ours, dense, hf, dinov3 = (f"{p}.{c}" for p, c in zip(parents, children, strict=True))
        return ours, dense, hf, dinov3

    stem = ("stem", "downsample_layers.0", "embeddings", "stages.0.downsample_layers")
    add(inside(stem, "0", "0", "patch_embeddings", "0"), weight="kernel")
    add(inside(stem, "1", "1", "layernorm", "1"), wrapper="ln.")
    for i, depth in enumerate(architecture.size.depths):
        stage = (f"stages.{i}", f"stages.{i}", f"encoder.stages.{i}", f"stages.{i}")
        if i > 0:
            ours, _, hf, dinov3 = inside(
                stage, "downsample", "", "downsampling_layer", "downsample_layers"
            )
            down = (ours, f"downsample_layers.{i}", hf, dinov3)
            add(inside(down, *"0000"), wrapper="ln.")
            add(inside(down, *"1111"), weight="kernel")
        for j in range(depth):
            block = inside(stage, f"blocks.{j}", f"{j}", f"layers.{j}", f"layers.{j}")
            add(inside(block, "conv_dw", "dwconv", "dwconv", "depthwise_conv"), weight="kernel")
            add(inside(block, "norm", "norm", "layernorm", "layer_norm"), wrapper="ln.")
            for n in "12":
                linear = inside(block, f"mlp.fc{n}", *2 * [f"pwconv{n}"], f"pointwise_conv{n}")
                add(linear, wrapper="linear.")
            if architecture.has_grn:
                for leaf, greek in (("weight", "gamma"), ("bias", "beta")):
                    ours, dense, hf, dinov3 = inside(
                        block, f"mlp.grn.{leaf}", f"grn.{greek}", *2 * [f"grn.{leaf}"]
                    )
                    rows.append(Row(ours, dense, dense, hf, dinov3))
            else:
                ours, dense, hf, dinov3 = inside(
                    block, "gamma", "gamma", "layer_scale_parameter", "gamma"
                )
                rows.append(Row(ours, dense, dense, hf, dinov3))
    add(("head.norm", "norm", "layernorm", "layer_norm"))
    add(("head.fc", "head", "classifier", "classifier"))
    return rows


def classifier_of(architecture: Architecture) -> str:
    """The prefix of the classifier's tensors, as timm has it."""
    return VIT_CLASSIFIER if architecture.is_vit else CLASSIFIER


def count_classes(tensors: Mapping[str, Tensor]) -> int:
    """Count the classes of the classifier among tensors under our names; 0 if there is none."""
    biases = (tensors.get(f"{prefix}bias") for prefix in (CLASSIFIER, VIT_CLASSIFIER))
    return next((len(bias) for bias in biases if bias is not None), 0)


def complete(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add a final norm to an encoder's tensors if there is none: the identity, as norms start.

    Those of timm's networks are complete as they are.
    """
    last = tensors.get("stages.3.blocks.0.norm.weight")
    if last is None or f"{FINAL_NORM}weight" in tensors:
        return dict(tensors)
    dim = len(last)
    identity = {f"{FINAL_NORM}weight": torch.ones(dim), f"{FINAL_NORM}bias": torch.zeros(dim)}
    return dict(tensors) | identity


def hf_names(tensors: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Rename tensors out of `complete` as transformers' ConvNeXt models have them.

    GRN's get the shape `[1, 1, 1, 4d]`.
    """
    names = {row.ours: row.hf for row in table(architecture)}
    return {
        names[name]: tensor.view(1, 1, 1, -1) if ".grn." in name else tensor
        for name, tensor in tensors.items()
    }


def listing(keys: Sequence[str], most: int = 4) -> str:
    """List the first keys for an error, as ` (a, b, c, d and 3 more)`; empty without keys."""
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return f" ({', '.join(keys[:most])}{more})" if keys else ""
