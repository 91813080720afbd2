"""MAE's vision transformers among files: their names, which are timm's, shapes, and positions.

MAE's official checkpoints have the same names. Positions are no weights of ours, since they are
fixed; timm's models hold them, and fine-tuning trains them.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import isqrt

import torch
from torch import Tensor

from fcmae.architecture import STEM_STRIDES, Architecture
from fcmae.vits import PREFIX, SIZES, STRIDES
from fcmae.weights.weight_names import Row, classifier_of

POSITIONS = "pos_embed"
# of the sine of 13 in float32, and of what half precision keeps of it
TOLERANCE = 1e-3


def shapes_of(architecture: Architecture) -> dict[str, torch.Size]:
    """List the shape of each tensor of the encoder, under timm's names, without the positions.

    Raises:
        ValueError: there is no such encoder.
    """
    from fcmae.encoders.masked_vit import MaskedVit  # timm: seconds

    with torch.device("meta"):
        encoder = MaskedVit(architecture)
    return {name: tensor.shape for name, tensor in encoder.state_dict().items()}


def optional_shapes(architecture: Architecture) -> dict[str, torch.Size]:
    """List the shape of what a file may have beside the encoder: the positions.

    Raises:
        ValueError: patches do not tile the images.
    """
    return {POSITIONS: torch.Size([1, 1 + architecture.patches, architecture.dim])}


def table(architecture: Architecture) -> list[Row]:
    """List the names of all tensors of an encoder, of its positions, and of the classifier."""
    head = classifier_of(architecture)
    names = [*shapes_of(architecture), POSITIONS, f"{head}weight", f"{head}bias"]
    return [Row(name, name, name, name, name) for name in names]


def infer(tensors: Mapping[str, Tensor], prefix: str) -> Architecture:
    """Infer the architecture from the shapes of patch embedding and positions.

    Args:
        tensors: all that the file holds.
        prefix: what stands before each name.

    Raises:
        ValueError: something cannot be inferred, or MAE has no such ViT; the message says why.
    """
    kernel = tensors.get(f"{prefix}patch_embed.proj.weight")
    if kernel is None or kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3]:
        raise ValueError(
            "the model cannot be inferred: patch_embed.proj.weight is no convolution of square"
            " patches"
        )
    dim, in_chans, patch, _ = kernel.shape
    sizes = {size.dim: name for name, size in SIZES.items()}
    if dim not in sizes:
        known = ", ".join(f"{d} ({PREFIX}{name})" for d, name in sizes.items())
        raise ValueError(f"the model cannot be inferred: a token's width {dim} is none of {known}")
    if f"{prefix}fc_norm.weight" in tensors:
        raise ValueError(
            "its norm follows the pooling (fc_norm), as in models that MAE has fine-tuned, and that"
            " of MAE's encoder precedes it: give the pretrained weights, or fine-tune it with"
            " --backbone timm:NAME"
        )
    patches = {STRIDES * stride: stride for stride in STEM_STRIDES}
    if patch not in patches:
        raise ValueError(
            f"its patches of {patch} pixels are none of {', '.join(map(str, patches))}"
        )
    architecture = Architecture(
        name=f"{PREFIX}{sizes[dim]}", in_chans=in_chans, stem_stride=patches[patch]
    )
    positions = tensors.get(f"{prefix}{POSITIONS}")
    if positions is None:
        return architecture
    n = positions.shape[-2] - 1 if positions.ndim > 1 else 0
    if n < 1 or isqrt(n) ** 2 != n:
        raise ValueError(
            f"the image size cannot be inferred: {POSITIONS} of {list(positions.shape)} is not that"
            " of a class token and a square of patches"
        )
    return replace(architecture, image_size=isqrt(n) * patch)


def with_positions(tensors: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Add MAE's fixed positions to a ViT's tensors, unless they have some; other ones stay."""
    if not architecture.is_vit or POSITIONS in tensors:
        return dict(tensors)
    return {POSITIONS: fixed(architecture), **tensors}


def fixed(architecture: Architecture) -> Tensor:
    """Compute MAE's positions as timm holds them, `[1, 1 + n, d]`: those of the class token are 0.

    Raises:
        ValueError: patches do not tile the images.
    """
    from fcmae.encoders.transformer import positions  # timm: seconds

    of_patches = positions(architecture.grid, architecture.dim)
    return torch.cat([torch.zeros(1, architecture.dim), of_patches])[None]


def check_fixed(tensors: Mapping[str, Tensor], architecture: Architecture) -> None:
    """Check that the positions among a ViT's tensors are MAE's, which its encoder has.

    Raises:
        ValueError: they have been learned.
    """
    if POSITIONS not in tensors:
        return
    difference = (tensors[POSITIONS].float() - fixed(architecture)).abs().max().item()
    if difference > TOLERANCE:
        raise ValueError(
            f"its positions have been learned (they differ from MAE's fixed ones by up to"
            f" {difference:.2g}), and pretraining keeps them fixed: give weights that MAE has"
            " pretrained"
        )
