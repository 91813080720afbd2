"""What a fine-tuned model says of image files, as lines of JSON or as a table."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.config import IMAGE_SUFFIXES, FittedConfig
from data.making.walking import described, find_images
from fcmae.run.tables import print_table
from fcmae.run.terminal import say, told_apart
from fcmae.run.waiting import counted
from fcmae.weights.metadata import SEGMENTER, Metadata
from fcmae.weights.safetensors_files import open_converted
from finetune.labels.config import ReadingConfig
from finetune.labels.inference import read_image, refuse_not_finite, tiled
from finetune.labels.mask_prediction import file_of, mask_of, shares_of, write_mask
from finetune.labels.tasks import Task
from finetune.models import classifier, segmenter

TILES = 64  # of a picture, which the model takes at a time
Row = tuple[Path, list[tuple[str, float]]]  # an image, and the names with the largest answers


def predict(
    images: Sequence[Path],
    weights: Path,
    *,
    top: int,
    config: ReadingConfig,
    masks: Path | None,
    as_json: bool,
) -> list[str]:
    """Print the answers for image files, and return why others have none.

    Those of a segmenter are the shares of its classes.

    Args:
        images: files, and folders of them.
        weights: of a fine-tuned model.
        top: how many classes to name.
        config: how pictures become what the model takes.
        masks: the directory for the masks of a segmenter, or None.
        as_json: print one JSON object a line in place of a table.

    Returns:
        A line for each file that cannot be read or decoded.

    Raises:
        OSError: the weights cannot be read, or a path does not exist.
        ValueError: the weights have no head, or are damaged; masks of no segmenter, or two that
            would be one file.
    """
    task, answers_of = loaded(weights, config, masks)
    measure = "probability" if isinstance(answers_of, partial) else "share of pixels"
    files = files_of(images)
    if masks is not None and len({path.name for path in files}) < len(files):
        raise ValueError("several images have one name, and so would their masks: give one folder")
    failures = list[str]()

    def rows() -> Iterator[Row]:
        for path in counted(files, "predicting", len(files), "images"):
            try:
                answers = answers_of(path)
            except ValueError as error:
                failures.append(str(error))
                continue
            except OSError as error:  # such as a link to nothing, or a file that none may read
                if error.filename is None:  # it is no image's fault: a mask cannot be written
                    raise
                failures.append(f"{path}: {error.strerror}")
                continue
            yield path, ranked(task, answers, top)

    if as_json:
        for line in lines(rows(), task, measure, masks):
            say(json.dumps(line), flush=True)
    else:
        head = task.field if task.kind == "value" else f"class ({measure})"
        print_table("", ["image", head], cells(rows(), task))
    return failures


def loaded(
    weights: Path, config: ReadingConfig, masks: Path | None
) -> tuple[Task, Callable[[Path], Float[Tensor, " k"]]]:
    """What a model answers about a file, and the function that does it and writes its mask.

    Raises:
        OSError, ValueError: see `predict`.
    """
    with open_converted(weights) as (_, _, header):
        segments = SEGMENTER in header
    if not segments:
        if masks is not None:
            raise ValueError(f"masks={masks}, but {weights} is no segmenter: leave --masks out")
        model, metadata, task = classifier.load(weights)
        return task, partial(answers_to, model, metadata, task, config=config.fitted(metadata))
    model, metadata, names = segmenter.load(weights)
    fitted = config.fitted(metadata)

    def shares(path: Path) -> Float[Tensor, " k"]:
        mask = mask_of(model, metadata, path, fitted)
        if masks is not None:
            write_mask(mask, file_of(path, masks))
        return shares_of(mask, len(names))

    return Task(kind="class", field="", names=names), shares


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files, and the images in the folders, sorted; what else is there is counted, and said.

    Raises:
        FileNotFoundError: a path does not exist, or a folder has no image.
        ValueError: there is no path.
    """
    if not paths:
        raise ValueError("name image files, or folders of them, as in fcmae predict photos/")
    files = []
    for path in paths:
        if path.is_dir():
            found = find_images(path)
            for line in (*found.notes, *described(found.left_out)):
                say(f"{path}: {line}", error=True)
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
    names = told_apart(task.names)
    return [(names[i], v) for v, i in zip(values.tolist(), places.tolist(), strict=True)]


def lines(
    rows: Iterator[Row], task: Task, measure: str, masks: Path | None
) -> Iterator[dict[str, Any]]:
    """An object for each image, to be printed as JSON."""
    key = measure.replace(" ", "_")
    for path, top in rows:
        if task.kind == "value":
            yield {"image": str(path), task.field: top[0][1]}
        else:
            line = {"image": str(path), "top": [{"class": n, key: p} for n, p in top]}
            yield line if masks is None else line | {"mask": str(file_of(path, masks))}


def cells(rows: Iterator[Row], task: Task) -> Iterator[tuple[str, str]]:
    """An image and its answers, in words, for each row of a table."""
    for path, top in rows:
        if task.kind == "value":
            yield str(path), f"{top[0][1]:.4g}"
        else:
            yield str(path), "  ".join(f"{name} ({p:.3f})" for name, p in top)
