"""Encoder weights to what others load, from any file that holds some.

    python -m fcmae.convert runs/demo OUT.safetensors --to timm
    python -m fcmae.convert convnextv2_atto_1k_224_fcmae.pt OUT.safetensors --to timm
    python -m fcmae.convert timm:convnextv2_atto.fcmae OUT.safetensors --to timm
    python -m fcmae.convert OUT.safetensors OUT.pt --to official
    python -m fcmae.convert OUT.safetensors DIRECTORY --to hub

Sparse weights are dense weights. All targets have a final norm, which FCMAE does not train: it is
kept where the source has one and the identity elsewhere. A classifier is kept if there is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fcmae.run.config import parse
from fcmae.run.program import run_program
from fcmae.run.ranges import Extent, NotNegative, Real
from fcmae.run.terminal import say
from fcmae.run.waiting import waiting
from fcmae.weights.options import Target


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Convert encoder weights to what timm, the official code, transformers or ONNX load."""

    source: Annotated[str, tyro.conf.Positional]
    """A run (its newest checkpoint), a step_* directory, the model.safetensors or ema.safetensors
    in one; a file of safetensors or PyTorch in the names of timm, the official code or
    transformers, under any wrapper; an ONNX file of this project; a directory of these; timm:NAME
    or hf:ORG/NAME, which are fetched from the hub."""
    out: Annotated[Path, tyro.conf.Positional]
    """The file to write: .safetensors for timm, .pt or .pth for the official ones, .onnx for onnx;
    the directory for hub and hf. These three are not written over anything."""
    to: Target = "timm"
    """timm: its names. official: those of ConvNeXt V2's authors, for their fine-tuning.
    official-sparse: those of their pretraining, in the layout of MinkowskiEngine. hub: a directory
    in the format of timm's models on the Hugging Face hub. hf: one for transformers. onnx:
    features, or logits where there is a classifier, for images of any number and size."""
    key: str | None = None
    """Which encoder to take where SOURCE holds several: a part of its name, as model_ema, or
    student.backbone. By default the only one, or the only average of others."""
    image_size: Extent | tuple[Extent, Extent] | None = None
    """Side, or height and width, in pixels, of the images that SOURCE was trained on, where it does
    not tell; 224 otherwise."""
    mean: tuple[Real, ...] | None = None
    """Mean of each channel of those images, or one value for all; ImageNet's otherwise."""
    std: tuple[NotNegative, ...] | None = None
    """Standard deviation of each channel of those images, or one value for all; ImageNet's
    otherwise."""
    half: bool = False
    """Half precision, for onnx: half the size, and faster where float16 is. Images and outputs stay
    float32, and so do the sums of GRN over an image, which would overflow."""


def main(argv: Sequence[str]) -> None:
    """Convert, and say what was written."""
    config = parse(ConvertConfig, argv, description=str(ConvertConfig.__doc__))
    with waiting("importing PyTorch"):
        from fcmae.weights.conversion import convert  # torch and timm take seconds

    with waiting("converting weights"):
        said = convert(**vars(config))
    say(said)


if __name__ == "__main__":
    run_program(main)
