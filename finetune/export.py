"""A segmenter as an ONNX file, which gives logits of images of any number and size.

    fcmae export runs/mine/masks/weights.safetensors OUT.onnx

Encoders and classifiers are exported by `python -m fcmae.convert`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fcmae.run.config import parse
from fcmae.run.program import run_program
from fcmae.run.terminal import say
from fcmae.run.waiting import waiting


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a segmenter as an ONNX file, which gives logits of images of any number and size."""

    weights: Annotated[Path, tyro.conf.Positional]
    """weights.safetensors in a run of `fcmae segment`."""
    out: Annotated[Path, tyro.conf.Positional]
    """The file to write, .onnx. It is not written over anything."""
    half: bool = False
    """Half precision: half the size, and faster where float16 is. Images and logits stay float32,
    and so do the sums of norms over an image, which would overflow."""


def main(argv: Sequence[str]) -> None:
    """Export, compare with torch, and say what was written."""
    config = parse(ExportConfig, argv, description=str(ExportConfig.__doc__))
    if config.out.suffix != ".onnx":
        raise ValueError(f"out={config.out} must end in .onnx")
    with waiting("importing PyTorch"):
        from fcmae.weights.metadata import SEGMENTER  # torch and timm take seconds
        from fcmae.weights.onnx import write_onnx
        from finetune.models.segmenter import about, load

    model, metadata, names = load(config.weights)
    header = {SEGMENTER: about(model, names)}
    difference = write_onnx(config.out, model, metadata, names, header, half=config.half)
    say(
        f"{config.out}: onnx, segmenter of {len(names)} classes on {metadata.model}; onnxruntime"
        f" differs from torch by at most {difference:.1e}"
    )


if __name__ == "__main__":
    run_program(main)
