"""What a fine-tuned model says of image files, as lines of JSON or as a table."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.config import IMAGE_SUFFIXES, FittedConfig
from data.making.walking import described, find_images
from fcmae.weights.metadata import Metadata
from finetune.labels.config import ReadingConfig
from finetune.labels.inference import read_image, refuse_not_finite, tiled
from finetune.labels.results import print_table
from finetune.labels.tasks import Task
from finetune.models import classifier

TILES = 64  # of a picture, which the model takes at a time
Row = tuple[Path, list[tuple[str, float]]]  # an image, and the names with the largest answers


def predict(
    images: Sequence[Path], weights: Path, *, top: int, config: ReadingConfig, as_json: bool
) -> list[str]:
    """Print the answers for image files, and return why others have none.

    Args:
        images: files, and folders of them.
        weights: of a fine-tuned model.
        top: how many classes to name.
        config: how pictures become what the model takes.
        as_json: print one JSON object a line in place of a table.

    Returns:
        A line for each file that cannot be read or decoded.

    Raises:
        OSError: the weights cannot be read, or a path does not exist.
        ValueError: the weights have no head, or are damaged.
    """
    model, metadata, task = classifier.load(weights)
    fitted = config.fitted(metadata)
    failures = list[str]()

    def rows() -> Iterator[Row]:
        for path in files_of(images):
            try:
                answers = answers_to(model, metadata, task, path, fitted)
            except ValueError as error:
                failures.append(str(error))
                continue
            except OSError as error:  # such as a link to nothing, or a file that none may read
                failures.append(f"{path}: {error.strerror or error}")
                continue
            yield path, ranked(task, answers, top)

    if as_json:
        for line in lines(rows(), task):
            print(json.dumps(line), flush=True)
    else:
        head = task.field if task.kind == "value" else "class (probability)"
        print_table("", ["image", head], cells(rows(), task))
    return failures


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files, and the images in the folders, sorted; what else is there is counted, and said.

    Raises:
        FileNotFoundError: a path does not exist, or a folder has no image.
    """
    files = []
    for path in paths:
        if path.is_dir():
            found = find_images(path)
            for line in (*found.notes, *described(found.left_out)):
                print(f"{path}: {line}", file=sys.stderr)
            if not found.images:
                raise FileNotFoundError(f"{path} holds no {', '.join(IMAGE_SUFFIXES)}")
            files += [path / name for name in found.images]
        elif path.is_file():
            files.append(path)
        else:
            raise FileNotFoundError(f"{path} does not exist")
    return files


@torch.no_grad()
def answers_to(
    model: nn.Module, metadata: Metadata, task: Task, path: Path, config: FittedConfig
) -> Float[Tensor, " k"]:
    """Probabilities of the classes, or the value, for one file; the mean of those of its tiles.

    Raises:
        ValueError: it cannot be decoded, or the answers are not finite.
    """
    images = read_image(path, metadata, config)
    answers = task.answers(tiled(model.eval(), images, TILES)).mean(0, keepdim=True)
    refuse_not_finite(answers, torch.ones(1, dtype=torch.bool), lambda _: str(path))
    return answers[0]


def ranked(task: Task, answers: Float[Tensor, " k"], top: int) -> list[tuple[str, float]]:
    """The names with the largest answers."""
    values, places = answers.topk(min(top, task.outputs))
    return [(task.names[i], v) for v, i in zip(values.tolist(), places.tolist(), strict=True)]


def lines(rows: Iterator[Row], task: Task) -> Iterator[dict[str, Any]]:
    """An object for each image, to be printed as JSON."""
    for path, top in rows:
        if task.kind == "value":
            yield {"image": str(path), task.field: top[0][1]}
        else:
            yield {"image": str(path), "top": [{"class": n, "probability": p} for n, p in top]}


def cells(rows: Iterator[Row], task: Task) -> Iterator[tuple[str, str]]:
    """An image and its answers, in words, for each row of a table."""
    for path, top in rows:
        if task.kind == "value":
            yield str(path), f"{top[0][1]:.4g}"
        else:
            yield str(path), "  ".join(f"{name} ({p:.3f})" for name, p in top)
