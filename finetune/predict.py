"""What a fine-tuned model says of image files: the most probable classes, or the value.

python -m finetune.predict FOLDER photo.jpg --weights runs/mine/weights.safetensors
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from data.decode import IMAGE_SUFFIXES, Pixels
from fcmae.run.config import parse, run_program
from fcmae.weights.metadata import Metadata
from finetune.labels.inference import read_image, suffix_of
from finetune.labels.tasks import Task
from finetune.models import classifier


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Predict classes, labels or values of image files."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Image files, and folders of them."""
    weights: Path
    """Fine-tuned weights: weights.safetensors in a run of finetune.train."""
    top: int = 5
    """How many classes to name, the most probable ones."""
    json: bool = False
    """Print one JSON object a line in place of a table."""
    pixels: Pixels = "uint8"
    """As data.pixels of the fine-tuning."""


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files, and the images in the folders, sorted.

    Raises:
        FileNotFoundError: a path does not exist, or a folder has no image.
    """
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if suffix_of(p) in IMAGE_SUFFIXES)
            if not inside:
                raise FileNotFoundError(f"{path} holds no {', '.join(IMAGE_SUFFIXES)}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path} does not exist")
    return found


@torch.no_grad()
def answers_to(
    model: nn.Module, metadata: Metadata, task: Task, path: Path, pixels: Pixels
) -> Float[Tensor, " k"]:
    """Probabilities of the classes, or the value, for one file.

    Raises:
        ValueError: it cannot be decoded.
    """
    return task.answers(model.eval()(read_image(path, metadata, pixels)))[0]


def ranked(task: Task, answers: Float[Tensor, " k"], top: int) -> list[tuple[str, float]]:
    """The names with the largest answers."""
    values, places = answers.topk(min(top, task.outputs))
    return [(task.names[i], v) for v, i in zip(values.tolist(), places.tolist(), strict=True)]


def lines(
    rows: Iterator[tuple[Path, list[tuple[str, float]]]], task: Task
) -> Iterator[dict[str, Any]]:
    """One object for each image."""
    for path, top in rows:
        if task.kind == "value":
            yield {"image": str(path), task.field: top[0][1]}
        else:
            yield {"image": str(path), "top": [{"class": n, "probability": p} for n, p in top]}


def table_of(rows: Iterator[tuple[Path, list[tuple[str, float]]]], task: Task) -> Table:
    """One row for each image."""
    table = Table("image", task.field if task.kind == "value" else "class (probability)")
    for path, top in rows:
        if task.kind == "value":
            table.add_row(str(path), f"{top[0][1]:.4g}")
        else:
            table.add_row(str(path), "  ".join(f"{name} ({p:.3f})" for name, p in top))
    return table


def main(argv: Sequence[str]) -> None:
    """Load, answer, print; images that cannot be read are named, and end it with status 1."""
    config = parse(PredictConfig, argv, description=str(PredictConfig.__doc__))
    if config.top < 1:
        raise ValueError(f"top={config.top} must be at least 1")
    model, metadata, task = classifier.load(config.weights)
    failures = []

    def rows() -> Iterator[tuple[Path, list[tuple[str, float]]]]:
        for path in files_of(config.images):
            try:
                answers = answers_to(model, metadata, task, path, config.pixels)
            except ValueError as error:
                failures.append(str(error))
                continue
            yield path, ranked(task, answers, config.top)

    if config.json:
        for line in lines(rows(), task):
            print(json.dumps(line), flush=True)
    else:
        Console().print(table_of(rows(), task))
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    run_program(main)
