"""Recognising an encoder by the names and shapes of its tensors, and bringing it to our names.

Whatever stands before the stem's name stands before all names: no list of wrappers is needed, since
the complete table decides whether what follows is one whole encoder.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from fcmae.architecture import Architecture
from fcmae.weights import convmaes, vits, weight_names
from fcmae.weights.metadata import SIDES, HeadPool
from fcmae.weights.weight_names import CLASSIFIER, FINAL_NORM, Row, classifier_of, listing

Layout = Literal["timm", "official", "transformers", "dinov3", "vit", "convmae"]
# the stem's convolution in each layout; transformers puts a family before all but the classifier
STEMS: dict[Layout, str] = {
    "timm": r"stem\.0",
    "official": r"downsample_layers\.0\.0",
    "transformers": r"(?:convnext\.|convnextv2\.)?embeddings\.patch_embeddings",
    "dinov3": r"(?:model\.)?stages\.0\.downsample_layers\.0",
    "vit": r"patch_embed\.proj",
    "convmae": r"patch_embed1\.proj",
}
STEM_KEYS: dict[Layout, re.Pattern[str]] = {
    layout: re.compile(rf"((?:.+?\.)??){stem}\.(?:weight|kernel|bias)")
    for layout, stem in STEMS.items()
}
# what is left out by its exact prefix, which follows the encoder's own or a part of that
DROPPED = {
    "decoder": (
        *("decoder.", "mask_token", "proj.", "pred."),
        # MAE's
        *("decoder_embed.", "decoder_pos_embed", "decoder_blocks.", "decoder_norm."),
        "decoder_pred.",
        # SparK's
        *("dense_decoder.", "densify_norms.", "densify_projs.", "imn_m", "imn_s", "norm_black"),
    ),
    "projector of the contrastive term": ("contrast.projector.",),
    "queue of neighbours": ("contrast.queue",),
    "heads of self-distillation": ("dino_head.", "ibot_head.", "projectors."),
    "norms of the stages' outputs": (
        *("norms.0.", "norms.1.", "norms.2.", "norm0.", "norm1.", "norm2.", "norm3."),
        "hidden_states_norms.",
    ),
    "rest of CLIP": (
        *("visual.head.", "transformer.", "text.", "token_embedding.", "positional_embedding"),
        *("text_projection", "ln_final.", "logit_scale", "logit_bias"),
    ),
    "average's counter": ("n_averaged",),
}
HIDDEN_LAYER = "head.pre_logits."  # of timm's *_mlp: the classifier after it is dropped with it


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How a file names its tensors."""

    layout: Layout
    """Whose names they are; ours are timm's."""
    prefix: str
    """What stands before each name."""
    hidden_layer: bool = False
    """Whether the classifier has a hidden layer, and is dropped for it."""
    fixed_positions: bool = False
    """Whether positions are not learned, and left out since they can be computed."""

    def drops(self, key: str) -> str | None:
        """Name the part that `key` belongs to if that is left out, by its exact prefix."""
        if self.hidden_layer and key.startswith((f"{self.prefix}{HIDDEN_LAYER}", self.classifier)):
            return "classifier with a hidden layer"
        if self.fixed_positions and key == f"{self.prefix}{convmaes.POSITIONS}":
            return "fixed positions"
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", self.prefix))]
        ancestors = [self.prefix[:start] for start in starts]
        return dropped_part(key, ancestors)

    @property
    def classifier(self) -> str:
        """The prefix of timm's classifier."""
        return f"{self.prefix}{CLASSIFIER}"

    def names(self, row: Row) -> list[str]:
        """List the keys under which the tensor of `row` may be in the file."""
        names: tuple[str, ...]
        if self.layout in ("timm", "vit"):
            names = (row.ours,)
        elif self.layout == "convmae":
            names = (row.ours, row.dense)
        elif self.layout == "official":
            names = (row.dense, row.sparse)
            if row.ours.startswith(FINAL_NORM):
                names += (f"norms.3.{row.dense.removeprefix('norm.')}",)  # DINOv3's own
        elif self.layout == "transformers":
            names = (row.hf, f"convnext.{row.hf}", f"convnextv2.{row.hf}")
        else:
            names = (row.dinov3, f"model.{row.dinov3}")
        return [self.prefix + name for name in dict.fromkeys(names)]


def dropped_part(key: str, ancestors: Sequence[str] = ("",)) -> str | None:
    """Name the part of a model that is left out to which a tensor belongs; None if it stays.

    Args:
        key: the tensor's name.
        ancestors: what may stand in front of the parts.
    """
    for part, prefixes in DROPPED.items():
        if any(key.startswith(a + p) for a in ancestors for p in prefixes):
            return part
    return None


def on_cells(shape: torch.Size, pool: HeadPool) -> torch.Size:
    """The shape of a classifier's weight on what is pooled, out of [classes, d] on the mean."""
    classes, dim = shape
    return torch.Size([classes, dim * SIDES[pool] ** 2])


def encoders_in(tensors: Mapping[str, Tensor]) -> Iterator[tuple[Layout, str]]:
    """Find the layout and the prefix of each encoder whose stem is among these tensors."""
    found = set[tuple[Layout, str]]()
    for key in tensors:
        for layout, pattern in STEM_KEYS.items():
            match = pattern.fullmatch(key)
            if match and (layout, match[1]) not in found:
                found.add((layout, match[1]))
                yield layout, match[1]


def recognise(tensors: Mapping[str, Tensor]) -> Naming:
    """Recognise whose names tensors have, and their prefix.

    Raises:
        ValueError: there is no ConvNeXt among them, or several.
    """
    found = list(encoders_in(tensors))
    if not found:
        raise ValueError(
            "no ConvNeXt: neither the stem of timm's names (stem.0.*), nor of the official ones"
            " (downsample_layers.0.0.*), nor of transformers', nor a ViT's (patch_embed.proj.*) or"
            " ConvMAE's (patch_embed1.proj.*) is among its"
            f" {len(tensors)} tensors{listing(sorted(tensors))}"
        )
    if len(found) > 1:
        raise ValueError(f"{len(found)} encoders{listing([prefix for _, prefix in found])}")
    ((layout, prefix),) = found
    hidden = layout == "timm" and any(k.startswith(prefix + HIDDEN_LAYER) for k in tensors)
    fixed = layout == "convmae" and not convmaes.is_fine_tuned(tensors, prefix)
    return Naming(layout=layout, prefix=prefix, hidden_layer=hidden, fixed_positions=fixed)


def canonical(
    tensors: Mapping[str, Tensor], architecture: Architecture, pool: HeadPool = "last"
) -> dict[str, Tensor]:
    """Rename and reshape an encoder's tensors, out of any layout, as ours are.

    The final norm and the classifier, which FCMAE does not train, are kept if they are there. Every
    key is used once; only what `Naming.drops` names is dropped. A tensor that is there under two
    names, as the final norm of DINOv3's official files, is used once.

    Args:
        tensors: all that the file holds.
        architecture: the encoder.
        pool: what the classifier takes, if there is one.

    Raises:
        ValueError: tensors are missing, left over or of another shape; the message lists them.
    """
    naming = recognise(tensors)
    left = {key: tensor for key, tensor in tensors.items() if not naming.drops(key)}
    rows, shapes = wanted(left, naming, architecture)
    weight = f"{classifier_of(architecture)}weight"
    if weight in shapes:
        shapes[weight] = on_cells(shapes[weight], pool)
    renamed: dict[str, Tensor] = {}
    missing: list[str] = []
    misshapen: list[str] = []
    for row in rows:
        names = naming.names(row)
        found = [name for name in names if name in left]
        if not found:
            missing.append(names[0])
            continue
        key, *again = found
        tensor = left.pop(key)
        for other in again:
            if torch.equal(left[other], tensor):
                del left[other]
        shape = shapes[row.ours]
        value = from_kernel(tensor, shape) if key.endswith(".kernel") else reshaped(tensor, shape)
        if value is None:
            misshapen.append(f"{key} {list(tensor.shape)} for {list(shape)}")
        else:
            renamed[row.ours] = value
    wrong = {"missing": missing, "unused": sorted(left), "of another shape": misshapen}
    if any(wrong.values()):
        parts = [f"{len(keys)} {what}{listing(keys)}" for what, keys in wrong.items()]
        beside = any(not key.startswith(naming.prefix) for key in left)
        way = f"; --key {naming.prefix.strip('.')} leaves out what is beside it" if beside else ""
        raise ValueError(f"the weights are not those of {architecture}: {'; '.join(parts)}{way}")
    return renamed


def wanted(
    left: Mapping[str, Tensor], naming: Naming, architecture: Architecture
) -> tuple[list[Row], dict[str, torch.Size]]:
    """List the rows that have to be among the tensors `left`, and the shapes under our names.

    They are those of the encoder, of what is optional (the final norm; the positions of a ViT) if
    any of it is there, and of both that and the classifier if any of the classifier is: a file with
    only one of them is partial.
    """
    if architecture.is_convmae:
        return convmaes.wanted(left, naming.prefix, architecture)
    names = vits if architecture.is_vit else weight_names
    shapes = names.shapes_of(architecture)
    optional = names.optional_shapes(architecture)
    rows = names.table(architecture)
    prefix = classifier_of(architecture)
    encoder = [row for row in rows if row.ours in shapes]
    beside = [row for row in rows if row.ours in optional]
    classifier = [
        row for row in rows if row.ours == f"{prefix}weight" or row.ours == f"{prefix}bias"
    ]
    assert len(encoder) == len(shapes)
    assert len(encoder) + len(beside) + len(classifier) == len(rows)
    classified = [left[n] for row in classifier for n in naming.names(row) if n in left]
    if classified:
        classes = classified[0].shape[:1]
        encoder += beside + classifier
        weight, bias = (row.ours for row in classifier)
        shapes |= {weight: torch.Size([*classes, architecture.dim]), bias: classes}
    elif any(n in left for row in beside for n in naming.names(row)):
        encoder += beside
    return encoder, shapes | optional


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
