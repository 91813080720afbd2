"""Names and shapes of an encoder's weights: ours, timm's, the official ones, transformers'.

One table holds every tensor's names. Ours are timm's, whose smaller models hold linear layers as
1x1 convolutions. The official sparse model differs from the official dense one in the layers of
MinkowskiEngine: its convolutions hold a `kernel` `[k k, c_in, c_out]` (`[k k, c]` if
depthwise, `[c_in, c_out]` if 1x1) whose first spatial axis, the rows, runs fastest, and biases
`[1, c]`; its linear layers and norms are wrapped. GRN's two tensors are `[1, 1, 1, 4d]` in the
dense model and `[1, 4d]` in the sparse one. Transformers has the dense model's shapes; weights in
its names are written but not read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from fcmae.architecture import SIZES, STEM_STRIDES, Architecture
from fcmae.encoder import Encoder

FINAL_NORM = "head.norm."  # our prefix for what FCMAE does not train
CLASSIFIER = "head.fc."  # our prefix for what fine-tuning adds
DECODER = ("decoder.",)  # prefix in our checkpoints that is dropped
OFFICIAL_DECODER = ("mask_token", "proj.", "decoder.", "pred.")  # and those in official ones


class Row(NamedTuple):
    """The names of one tensor: ours, the official dense and sparse ones, and transformers'."""

    ours: str
    dense: str
    sparse: str
    hf: str


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How a file names its tensors."""

    official: bool
    """Whether the names are the official ones; otherwise they are ours, which are timm's."""
    prefix: str
    """What stands before each name."""

    def drops(self, key: str) -> bool:
        """Whether `key` belongs to the decoder, by its exact prefix."""
        return key.startswith(OFFICIAL_DECODER if self.official else DECODER)

    def names(self, row: Row) -> list[str]:
        """List the keys under which the tensor of `row` may be in the file."""
        names = (row.dense, row.sparse) if self.official else (row.ours,)
        return [self.prefix + name for name in dict.fromkeys(names)]


def shapes_of(architecture: Architecture) -> dict[str, torch.Size]:
    """List the shape of each tensor of the encoder, under our names.

    Raises:
        ValueError: there is no such encoder.
    """
    with torch.device("meta"):
        encoder = Encoder(architecture)
    return {name: tensor.shape for name, tensor in encoder.state_dict().items()}


def table(architecture: Architecture) -> list[Row]:
    """List the names of all tensors of an encoder, of the final norm, and of the classifier."""
    rows: list[Row] = []

    def add(ours: str, dense: str, hf: str, wrapper: str = "", weight: str = "weight") -> None:
        for leaf in ("weight", "bias"):
            sparse = f"{dense}.{wrapper}{weight if leaf == 'weight' else leaf}"
            rows.append(Row(f"{ours}.{leaf}", f"{dense}.{leaf}", sparse, f"{hf}.{leaf}"))

    add("stem.0", "downsample_layers.0.0", "embeddings.patch_embeddings", weight="kernel")
    add("stem.1", "downsample_layers.0.1", "embeddings.layernorm", wrapper="ln.")
    for i, depth in enumerate(architecture.depths):
        if i > 0:
            ours = f"stages.{i}.downsample"
            dense = f"downsample_layers.{i}"
            hf = f"encoder.stages.{i}.downsampling_layer"
            add(f"{ours}.0", f"{dense}.0", f"{hf}.0", wrapper="ln.")
            add(f"{ours}.1", f"{dense}.1", f"{hf}.1", weight="kernel")
        for j in range(depth):
            ours = f"stages.{i}.blocks.{j}"
            dense = f"stages.{i}.{j}"
            hf = f"encoder.stages.{i}.layers.{j}"
            add(f"{ours}.conv_dw", f"{dense}.dwconv", f"{hf}.dwconv", weight="kernel")
            add(f"{ours}.norm", f"{dense}.norm", f"{hf}.layernorm", wrapper="ln.")
            add(f"{ours}.mlp.fc1", f"{dense}.pwconv1", f"{hf}.pwconv1", wrapper="linear.")
            if architecture.has_grn:
                for leaf, name in (("weight", "gamma"), ("bias", "beta")):
                    grn = f"{dense}.grn.{name}"
                    rows.append(Row(f"{ours}.mlp.grn.{leaf}", grn, grn, f"{hf}.grn.{leaf}"))
            else:
                gamma = f"{dense}.gamma"
                rows.append(Row(f"{ours}.gamma", gamma, gamma, f"{hf}.layer_scale_parameter"))
            add(f"{ours}.mlp.fc2", f"{dense}.pwconv2", f"{hf}.pwconv2", wrapper="linear.")
    add("head.norm", "norm", "layernorm")
    add("head.fc", "head", "classifier")
    return rows


def recognise(tensors: Mapping[str, Tensor]) -> Naming:
    """Recognise whose names tensors have, and their prefix.

    Raises:
        ValueError: the names are neither ours, which are timm's, nor the official ones.
    """
    for prefix in ("encoder.", ""):
        for stem, official in (("downsample_layers.", True), ("stem.", False)):
            if any(key.startswith(prefix + stem) for key in tensors):
                return Naming(official=official, prefix=prefix)
    raise ValueError(
        f"no ConvNeXt: neither timm's stem.* nor the official downsample_layers.* is among its"
        f" {len(tensors)} tensors{listing(sorted(tensors))}"
    )


def infer(tensors: Mapping[str, Tensor]) -> Architecture:
    """Infer the architecture from names and shapes; the image size stays the default.

    Raises:
        ValueError: something cannot be inferred; the message names it and what it depends on.
    """
    naming = recognise(tensors)
    stem = next((n for n in naming.names(table(Architecture())[0]) if n in tensors), None)
    if stem is None:
        raise ValueError("the model cannot be inferred: the stem's convolution is missing")
    shape = tensors[stem].shape
    if stem.endswith(".kernel") and len(shape) in (2, 3):
        sites, in_chans, width = shape if len(shape) == 3 else (1, *shape)
        k = isqrt(sites)
    elif not stem.endswith(".kernel") and len(shape) == 4:
        width, in_chans, k, _ = shape
    else:
        raise ValueError(f"in_chans cannot be inferred: {stem} of {list(shape)} is no convolution")
    sizes = [name for name, size in SIZES.items() if size.widths[0] == width]
    if not sizes:
        known = ", ".join(f"{size.widths[0]} ({name})" for name, size in SIZES.items())
        raise ValueError(
            f"the model cannot be inferred: the stem's width {width} is none of {known}"
        )
    if k not in STEM_STRIDES:
        raise ValueError(f"the stem's kernel of {k} x {k} is none of 4, 2, 1: not a known stem")
    mine = [key for key in tensors if not naming.drops(key)]
    if any(".grn." in key for key in mine):
        family = "convnextv2"
    elif any(key.endswith(".gamma") for key in mine):
        family = "convnext"
    else:
        raise ValueError("V1 or V2 cannot be inferred: there is neither GRN (V2) nor gamma (V1)")
    return Architecture(name=f"{family}_{sizes[0]}", in_chans=in_chans, stem_stride=k)


def canonical(tensors: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Rename and reshape an encoder's tensors, out of any layout, as ours are.

    The final norm and the classifier, which FCMAE does not train, are kept if they are there. Every
    key is used once; only the decoder is dropped.

    Raises:
        ValueError: tensors are missing, left over or of another shape; the message lists them.
    """
    naming = recognise(tensors)
    left = {key: tensor for key, tensor in tensors.items() if not naming.drops(key)}
    shapes = shapes_of(architecture)
    rows = table(architecture)
    encoder = [row for row in rows if row.ours in shapes]
    norm = [row for row in rows if row.ours.startswith(FINAL_NORM)]
    classifier = [row for row in rows if row.ours.startswith(CLASSIFIER)]
    assert len(encoder) == len(shapes)
    assert len(encoder) + len(norm) + len(classifier) == len(rows)
    classified = [left[n] for row in classifier for n in naming.names(row) if n in left]
    if classified:  # it needs the norm before it: a file with only one of them is partial
        classes = classified[0].shape[:1]
        encoder += norm + classifier
        weight, bias = (row.ours for row in classifier)
        shapes |= {weight: torch.Size([*classes, architecture.dim]), bias: classes}
    elif any(n in left for row in norm for n in naming.names(row)):
        encoder += norm
    shapes |= {row.ours: torch.Size([architecture.dim]) for row in norm}

    renamed: dict[str, Tensor] = {}
    missing: list[str] = []
    misshapen: list[str] = []
    for row in encoder:
        names = naming.names(row)
        key = next((name for name in names if name in left), None)
        if key is None:
            missing.append(names[0])
            continue
        tensor = left.pop(key)
        shape = shapes[row.ours]
        value = from_kernel(tensor, shape) if key.endswith(".kernel") else reshaped(tensor, shape)
        if value is None:
            misshapen.append(f"{key} {list(tensor.shape)} for {list(shape)}")
        else:
            renamed[row.ours] = value
    wrong = {"missing": missing, "unused": sorted(left), "of another shape": misshapen}
    if any(wrong.values()):
        parts = [f"{len(keys)} {what}{listing(keys)}" for what, keys in wrong.items()]
        raise ValueError(f"the weights are not those of {architecture}: {'; '.join(parts)}")
    return renamed


def reshaped(tensor: Tensor, shape: Sequence[int]) -> Tensor | None:
    """Reshape a tensor, or return None if the shapes differ in more than axes of length 1."""
    if [n for n in tensor.shape if n != 1] != [n for n in shape if n != 1]:
        return None
    return tensor.reshape(shape)


def from_kernel(kernel: Tensor, shape: torch.Size) -> Float[Tensor, "o i k k"] | None:
    """Turn a kernel of MinkowskiEngine into a convolution's weight, or None if it does not fit.

    MinkowskiEngine holds the site (row, column) of a k x k kernel at row + k column.
    """
    o, i, k, _ = shape
    sites = reshaped(kernel, (k * k, i, o))
    return None if sites is None else rearrange(sites, "(w h) i o -> o i h w", h=k)


def count_classes(tensors: Mapping[str, Tensor]) -> int:
    """Count the classes of the classifier among tensors under our names; 0 if there is none."""
    return len(tensors.get(f"{CLASSIFIER}bias", ()))


def complete(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add a final norm to an encoder's tensors if there is none: the identity, as norms start."""
    if f"{FINAL_NORM}weight" in tensors:
        return dict(tensors)
    dim = len(tensors["stages.3.blocks.0.norm.weight"])
    identity = {f"{FINAL_NORM}weight": torch.ones(dim), f"{FINAL_NORM}bias": torch.zeros(dim)}
    return dict(tensors) | identity


def official_names(tensors: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Rename and reshape tensors out of `complete` as the official dense model has them."""
    return rename(tensors, {row.ours: row.dense for row in table(architecture)})


def hf_names(tensors: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Rename and reshape tensors out of `complete` as transformers' ConvNeXt models have them."""
    return rename(tensors, {row.ours: row.hf for row in table(architecture)})


def rename(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Rename tensors, and give GRN's the shape `[1, 1, 1, 4d]` of dense models outside timm."""
    return {
        names[name]: tensor.view(1, 1, 1, -1) if ".grn." in name else tensor
        for name, tensor in tensors.items()
    }


def listing(keys: Sequence[str], most: int = 4) -> str:
    """List the first keys for an error, as ` (a, b, c, d and 3 more)`; empty without keys."""
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return f" ({', '.join(keys[:most])}{more})" if keys else ""
