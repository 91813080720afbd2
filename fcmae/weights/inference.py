"""The architecture of an encoder, out of the names and shapes of its tensors."""

import re
from collections.abc import Mapping
from math import isqrt

from torch import Tensor

from fcmae.architecture import STEM_STRIDES, Architecture
from fcmae.convnexts import SIZES, Size
from fcmae.weights import convmaes, vits
from fcmae.weights.recognition import Naming, recognise
from fcmae.weights.weight_names import Row, table

# a block of a stage in any layout, and the norm in it
BLOCK = re.compile(r"(?:\w+\.)*?stages\.([0-3])\.(?:blocks\.|layers\.)?(\d+)\.")
NORM = re.compile(r"\.(?:norm|layernorm|layer_norm)\.(?:ln\.)?weight$")
XXLARGE = Size((3, 4, 30, 3), (384, 768, 1536, 3072))  # of timm alone


def infer(tensors: Mapping[str, Tensor]) -> Architecture:
    """Infer the architecture from names and shapes; the image size stays the default.

    Raises:
        ValueError: something cannot be inferred; the message names it and what it depends on.
    """
    naming = recognise(tensors)
    if naming.layout == "vit":
        return vits.infer(tensors, naming.prefix)
    if naming.layout == "convmae":
        return convmaes.infer(tensors, naming.prefix)
    row, _, norm, *_ = table(Architecture())
    stem = next((n for n in naming.names(row) if n in tensors), None)
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
    check_layers(tensors, naming, norm, k)
    mine = [key for key in tensors if not naming.drops(key)]
    if any(".grn." in key for key in mine):
        family = "convnextv2"
    elif any(key.endswith((".gamma", ".layer_scale_parameter")) for key in mine):
        family = "convnext"
    else:
        raise ValueError("V1 or V2 cannot be inferred: there is neither GRN (V2) nor gamma (V1)")
    return architecture_of(family, size_of(tensors, naming, width), in_chans, k)


def check_layers(tensors: Mapping[str, Tensor], naming: Naming, norm: Row, k: int) -> None:
    """Check that the stem is one convolution without overlap, and that norms have a bias.

    Raises:
        ValueError: the encoder has other layers; the message says what they are.
    """
    if k == 3 and naming.layout == "timm":
        raise ValueError(
            "its stem of two overlapping 3 x 3 convolutions (as timm's *_ols models have) lets"
            " patches see each other, so that no sparse encoder of this project has it: take the"
            " model without _ols, or fine-tune it with --backbone timm:NAME"
        )
    if k not in STEM_STRIDES:
        raise ValueError(f"the stem's kernel of {k} x {k} is none of 4, 2, 1: not a known stem")
    weights = [name for name in naming.names(norm) if name in tensors]
    if weights and not any(f"{name.removesuffix('weight')}bias" in tensors for name in weights):
        raise ValueError(
            f"its norms have no bias ({weights[0]} is alone): RMS norms, as timm's *_rms models"
            " have, and the encoders of this project have LayerNorm: fine-tune it with --backbone"
            " timm:NAME"
        )


def size_of(tensors: Mapping[str, Tensor], naming: Naming, width: int) -> Size:
    """Count the blocks and the channels of each stage.

    A stage without blocks, or without norms, is as in the size that begins with the same width.

    Args:
        tensors: of the encoder.
        naming: how they are named.
        width: number of channels of the stem.

    Raises:
        ValueError: a stage is missing, and no size has this width.
    """
    depths = [0] * 4
    widths = [0] * 4
    for key, tensor in tensors.items():
        block = BLOCK.match(key.removeprefix(naming.prefix))
        if block is None or naming.drops(key) or not key.startswith(naming.prefix):
            continue
        stage = int(block[1])
        depths[stage] = max(depths[stage], min(int(block[2]) + 1, len(tensors)))
        if not widths[stage] and NORM.search(key):
            widths[stage] = tensor.numel()
    if min(depths + widths) == 0:
        similar = [size for size in SIZES.values() if size.widths[0] == width]
        if not similar:
            known = ", ".join(f"{size.widths[0]} ({name})" for name, size in SIZES.items())
            raise ValueError(
                "the model cannot be inferred: not all stages have blocks and norms, and the"
                f" stem's width {width} is none of {known}"
            )
        return similar[0]
    blocks0, blocks1, blocks2, blocks3 = depths
    width0, width1, width2, width3 = widths
    return Size((blocks0, blocks1, blocks2, blocks3), (width0, width1, width2, width3))


def architecture_of(family: str, size: Size, in_chans: int, stem_stride: int) -> Architecture:
    """Make the architecture with a size, by its name if it has one.

    Raises:
        ValueError: it is no encoder of this project.
    """
    if size == XXLARGE:
        raise ValueError(
            "its norms have another eps (1e-5, as timm's convnext_xxlarge), and the encoders of"
            " this project have 1e-6: fine-tune it with --backbone timm:NAME"
        )
    names = [name for name, known in SIZES.items() if known == size]
    return Architecture(
        name="_".join((family, *names)),
        in_chans=in_chans,
        stem_stride=stem_stride,
        depths=None if names else size.depths,
        widths=None if names else size.widths,
    )
