"""What a fine-tuned model says of image files, as lines of JSON or as a table."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from data.config import IMAGE_SUFFIXES
from data.making.walking import described, find_images
from fcmae.run.tables import print_table
from fcmae.run.terminal import say, told_apart
from fcmae.run.waiting import counted
from fcmae.weights.metadata import SEGMENTER
from fcmae.weights.safetensors_files import open_converted
from finetune.labels.class_prediction import answers_of
from finetune.labels.config import ReadingConfig
from finetune.labels.mask_prediction import file_of, mask_of, shares_of, write_mask
from finetune.labels.tasks import Task
from finetune.labels.unanswered import noting
from finetune.models import classifier, segmenter
from finetune.models.accelerated import accelerated

Answers = Iterator[tuple[Path, Float[Tensor, " k"]]]  # of the files that have any, in their order
Row = tuple[Path, list[tuple[str, float]]]  # an image, and the names with the largest answers


def predict(
    images: Sequence[Path],
    weights: Path,
    *,
    top: int,
    config: ReadingConfig,
    batch_size: int,
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
        batch_size: images that a classifier takes at a time.
        masks: the directory for the masks of a segmenter, or None.
        as_json: print one JSON object a line in place of a table.

    Returns:
        A line for each file that cannot be read or decoded.

    Raises:
        OSError: the weights cannot be read, or a path does not exist.
        ValueError: the weights have no head, or are damaged; masks of no segmenter, or two that
            would be one file.
    """
    failures = list[str]()
    task, measure, answers = loaded(weights, config, batch_size, masks, failures)
    files = files_of(images)
    if masks is not None and len({path.name for path in files}) < len(files):
        raise ValueError("several images have one name, and so would their masks: give one folder")
    answered = answers(counted(files, "predicting", len(files), "images"))
    rows = ((path, ranked(task, row, top)) for path, row in answered)
    if as_json:
        for line in lines(rows, task, measure, masks):
            say(json.dumps(line), flush=True)
    else:
        head = task.field if task.kind == "value" else f"class ({measure})"
        print_table("", ["image", head], cells(rows, task))
    return failures


def loaded(
    weights: Path,
    config: ReadingConfig,
    batch_size: int,
    masks: Path | None,
    failures: list[str],
) -> tuple[Task, str, Callable[[Iterable[Path]], Answers]]:
    """What a model answers about files, what that is, and the function that does it.

    The function of a segmenter writes the masks, too. Why a file has no answer goes to `failures`;
    the other arguments are those of `predict`.

    Raises:
        OSError, ValueError: see `predict`.
    """
    with open_converted(weights) as (_, _, header):
        segments = SEGMENTER in header
    if not segments:
        if masks is not None:
            raise ValueError(f"masks={masks}, but {weights} is no segmenter: leave --masks out")
        model, metadata, task = classifier.load(weights)
        answers = partial(
            answers_of,
            accelerated(model),
            metadata,
            task,
            config=config.fitted(metadata),
            batch_size=batch_size,
            failures=failures,
        )
        return task, "probability", answers
    model, metadata, names = segmenter.load(weights)
    forward, fitted = accelerated(model), config.fitted(metadata)

    def shares(files: Iterable[Path]) -> Answers:
        for path in files:
            with noting(failures, path):
                mask = mask_of(forward, metadata, path, fitted)
                if masks is not None:
                    write_mask(mask, file_of(path, masks))
                yield path, shares_of(mask, len(names))

    return Task(kind="class", field="", names=names), "share of pixels", shares


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
