"""ConvMAE's encoders among files: their names in public checkpoints, shapes and positions.

Public files hold what pretraining saves, with decoder and fixed positions, or what fine-tuning
does: without the fusion of the stages, with a norm behind the pooling and learned positions. Ours
have the public names, but timm's for the head. There, linear layers of the convolutional stages
are convolutions of 1 x 1.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from math import isqrt

import torch
from torch import Tensor, nn

from fcmae.architecture import STEM_STRIDES, Architecture
from fcmae.convmaes import PREFIX, SIZES
from fcmae.weights.metadata import Metadata
from fcmae.weights.weight_names import CLASSIFIER, FINAL_NORM, Row

POSITIONS = "pos_embed"
FUSION = ("stage1_output_decode.", "stage2_output_decode.", "norm.")
HEAD = {FINAL_NORM: "fc_norm.", CLASSIFIER: "head."}  # ours, and in public files
POINTWISE = re.compile(r"blocks[12]\.\d+\.(?:conv[12]|mlp\.fc[12])\.weight")


def infer(tensors: Mapping[str, Tensor], prefix: str) -> Architecture:
    """Infer the architecture from the widths, the first embedding and the positions.

    Args:
        tensors: all that the file holds.
        prefix: what stands before each name.

    Raises:
        ValueError: something cannot be inferred, or there is no such ConvMAE; the message says why.
    """
    names = [f"{prefix}patch_embed{i}.proj.weight" for i in (1, 2, 3)]
    kernels = [tensors.get(name) for name in names]
    shapes = [kernel.shape for kernel in kernels if kernel is not None and kernel.ndim == 4]
    if len(shapes) < 3:
        raise ValueError(f"the model cannot be inferred: {', '.join(names)} are not all there")
    widths = tuple(shape[0] for shape in shapes)
    sizes: dict[tuple[int, ...], str] = {size.widths: name for name, size in SIZES.items()}
    if widths not in sizes:
        known = ", ".join(f"{widths} ({PREFIX}{name})" for widths, name in sizes.items())
        raise ValueError(f"the model cannot be inferred: its widths {widths} are none of {known}")
    _, in_chans, stride, _ = shapes[0]
    if stride not in STEM_STRIDES:
        raise ValueError(
            f"the first kernel of {stride} x {stride} is none of 4, 2, 1: not a known stem"
        )
    architecture = Architecture(
        name=f"{PREFIX}{sizes[widths]}", in_chans=in_chans, stem_stride=stride
    )
    places = tensors.get(f"{prefix}{POSITIONS}")
    if places is None:
        return architecture
    n = places.shape[1] if places.ndim == 3 else 0
    if n < 1 or isqrt(n) ** 2 != n:
        raise ValueError(
            f"the image size cannot be inferred: {POSITIONS} of {list(places.shape)} is not that of"
            " a square of patches"
        )
    return replace(architecture, image_size=isqrt(n) * architecture.patch_size)


def rows_of(
    architecture: Architecture, *, head: bool, fused: bool, classes: int
) -> tuple[list[Row], dict[str, torch.Size]]:
    """List the names and the shapes of the tensors of a file.

    Args:
        architecture: the encoder.
        head: whether there is a head, and learned positions.
        fused: whether there is the fusion of the stages.
        classes: number of classes of the head.

    Raises:
        ValueError: there is no such encoder.
    """
    from fcmae.encoders.convmae import ConvMAE  # timm: seconds

    with torch.device("meta"):
        encoder = ConvMAE(architecture).state_dict()
    shapes = {
        name: tensor.shape
        for name, tensor in encoder.items()
        if fused or not name.startswith(FUSION)
    }
    dim = architecture.dim
    if head:
        shapes |= {
            POSITIONS: torch.Size([1, architecture.patches, dim]),
            **{f"{FINAL_NORM}{leaf}": torch.Size([dim]) for leaf in ("weight", "bias")},
        }
    if classes:
        shapes[f"{CLASSIFIER}weight"] = torch.Size([classes, dim])
        shapes[f"{CLASSIFIER}bias"] = torch.Size([classes])
    return [Row(name, public(name), *3 * [name]) for name in shapes], shapes


def is_fine_tuned(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    """Whether there is a head among tensors, so that the positions are learned."""
    return any(
        k.startswith(tuple(prefix + name for pair in HEAD.items() for name in pair))
        for k in tensors
    )


def wanted(
    left: Mapping[str, Tensor], prefix: str, architecture: Architecture
) -> tuple[list[Row], dict[str, torch.Size]]:
    """List the rows that have to be among the tensors `left`, and the shapes under our names.

    Args:
        left: the tensors of the file, without those that are left out by name.
        prefix: what stands before each name.
        architecture: the encoder.

    Raises:
        ValueError: there is no such encoder, or patches do not tile its images.
    """
    head = is_fine_tuned(left, prefix)
    fused = not head or any(key.startswith(f"{prefix}{FUSION[0]}") for key in left)
    biases = (left.get(f"{prefix}{name}bias") for name in (CLASSIFIER, HEAD[CLASSIFIER]))
    classes = next((len(bias) for bias in biases if bias is not None), 0)
    return rows_of(architecture, head=head, fused=fused, classes=classes)


def check_positions(tensors: Mapping[str, Tensor], architecture: Architecture) -> None:
    """Check that learned positions, if there are any, are those of images of this size.

    Raises:
        ValueError: they are of another size.
    """
    places = tensors.get(POSITIONS)
    if places is not None and places.shape[1] != architecture.patches:
        raise ValueError(
            f"image_size={architecture.image_size} makes {architecture.patches} patches, and there"
            f" are {places.shape[1]} learned positions: leave --image_size out; fine-tuning takes"
            " other sizes (--image_size of finetune.train)"
        )


def check_fused(tensors: Mapping[str, Tensor]) -> None:
    """Check that an encoder has the fusion of its stages, which pretraining goes on with.

    Raises:
        ValueError: it has none.
    """
    if not any(name.startswith(FUSION[0]) for name in tensors):
        raise ValueError(
            "its stages are not fused, since it is fine-tuned: give weights of pretraining"
        )


def public(name: str) -> str:
    """The name of a tensor in public files, by ours."""
    for ours, theirs in HEAD.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def to_public(tensors: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Rename and reshape an encoder's tensors as public files have them, with positions.

    Args:
        tensors: the weights under our names.
        architecture: the encoder, and its images.

    Raises:
        ValueError: patches do not tile the images.
    """
    from fcmae.encoders.transformer import positions  # timm: seconds

    named = {
        public(name): (
            tensor[..., None, None] if POINTWISE.fullmatch(name) else tensor
        ).contiguous()
        for name, tensor in tensors.items()
    }
    return {POSITIONS: positions(architecture.grid, architecture.dim)[None]} | named


def model_with(
    tensors: Mapping[str, Tensor],
    metadata: Metadata,
    num_classes: int,
    drop_path: float = 0.0,
) -> nn.Module:
    """Make the model of whole images with an encoder's weights.

    Without classes it has the fusion of the stages, if the weights do. A head that they lack is
    fresh.

    Args:
        tensors: the weights under our names, with the classifier that it shall have, if any.
        metadata: of the encoder, its images, and what the classifier takes.
        num_classes: number of classes; 0 makes no classifier.
        drop_path: rate of stochastic depth of the last block.
    """
    from fcmae.encoders.convvit import ConvViT  # timm: seconds
    from fcmae.weights.grids import classify_cells

    fused = num_classes == 0 and any(name.startswith(FUSION[0]) for name in tensors)
    model = ConvViT(metadata.architecture, num_classes, drop_path, fused=fused)
    if num_classes:
        classify_cells(model, metadata.pool, metadata.image_size, metadata.in_chans)
    fresh = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.startswith((POSITIONS, *HEAD))
    }
    known = {name: tensor for name, tensor in tensors.items() if name in model.state_dict()}
    model.load_state_dict(fresh | known)
    return model
