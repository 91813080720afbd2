"""What users choose of weights: what to start from, and what to convert to; without torch."""

from dataclasses import dataclass
from typing import Literal

Target = Literal[
    "timm", "official", "official-sparse", "hub", "hf", "onnx"
]  # what `fcmae.convert` can write


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """What the model starts from, beside the seed."""

    weights: str | None = None
    """Encoder weights to start from, whatever `python -m fcmae.convert` reads, such as a file or
    timm:convnextv2_atto.fcmae; the decoder starts fresh. Read before step 0 only: a run that
    resumes takes its own checkpoint."""
    decoder: bool = False
    """Start from the decoder of `weights` too, which has to be a run or a checkpoint of one. With
    model.contrast.weight, also from its projector, if it has one; a queue of neighbours starts
    fresh."""
