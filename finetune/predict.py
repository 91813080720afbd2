"""What a fine-tuned model says of image files: the most probable classes, the value, or masks.

fcmae predict FOLDER photo.jpg --weights runs/mine/weights.safetensors
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fcmae.run.config import parse
from fcmae.run.program import run_program
from fcmae.run.ranges import Batch, Count
from fcmae.run.terminal import say
from fcmae.run.threads import ThreadsConfig
from fcmae.run.waiting import waiting
from finetune.labels.config import ReadingConfig
from finetune.training.config import WEIGHTS


@dataclass(frozen=True, kw_only=True)
class PredictConfig(ReadingConfig, ThreadsConfig):
    """Predict classes, labels or values of image files, whose pixels are read as in training."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Image files, and folders of them."""
    weights: Path
    """Fine-tuned weights: a run of `fcmae finetune` or `fcmae segment`, or weights.safetensors of
    it."""
    top: Count = 5
    """How many classes to name, the most probable ones."""
    batch_size: Batch = 64
    """How many images a classifier takes at a time, tiles of pictures among them. A segmenter takes
    one picture at a time."""
    masks: Path | None = None
    """Directory for the masks of a segmenter, NAME.png for each image: a class number a pixel, 255
    where the model did not look, as beside the centre unless --fit is tiles, pad or squash."""
    json: bool = False
    """Print one JSON object a line in place of a table."""


def main(argv: Sequence[str]) -> None:
    """Predict and print; images that cannot be read are named, and end it with status 1."""
    config = parse(PredictConfig, argv, description=str(PredictConfig.__doc__))
    with waiting("importing PyTorch"):
        from finetune.labels.prediction import predict  # torch and timm take seconds

    failures = predict(
        config.images,
        config.weights / WEIGHTS if config.weights.is_dir() else config.weights,
        top=config.top,
        config=config,
        batch_size=config.batch_size,
        masks=config.masks,
        as_json=config.json,
    )
    for failure in failures:
        say(f"error: {failure}", error=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    run_program(main)
