"""The answers of a classifier about image files, which it takes in batches."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from data.config import FittedConfig
from fcmae.weights.metadata import Metadata
from finetune.labels.inference import means_of, read_image, refuse_not_finite, tiled
from finetune.labels.tasks import Task
from finetune.labels.unanswered import noting
from finetune.models.compiled import Forward


@torch.no_grad()
def answers_of(
    forward: Forward,
    metadata: Metadata,
    task: Task,
    files: Iterable[Path],
    config: FittedConfig,
    *,
    batch_size: int,
    failures: list[str],
) -> Iterator[tuple[Path, Float[Tensor, " k"]]]:
    """Iterate over files, with the probabilities of the classes, or the value.

    Of a picture in tiles, it is the mean of their answers.

    Args:
        forward: of the model, from and to the CPU.
        metadata: how the model takes images.
        task: of the model.
        files: they are answered in this order.
        config: how files become what the model takes.
        batch_size: images, or tiles of them, that the model takes at a time.
        failures: gets a line for each file that cannot be read or decoded, or whose answers are not
            finite; it is left out.
    """
    whole = torch.ones(1, dtype=torch.bool)
    for paths, images in batches(metadata, files, config, batch_size, failures):
        answers = task.answers(tiled(forward, torch.cat(images), batch_size))
        for path, row in zip(paths, means_of(answers, [len(each) for each in images]), strict=True):
            with noting(failures, path):
                refuse_not_finite(row[None], whole, [str(path)].__getitem__)
                yield path, row


def batches(
    metadata: Metadata,
    files: Iterable[Path],
    config: FittedConfig,
    batch_size: int,
    failures: list[str],
) -> Iterator[tuple[list[Path], list[Float[Tensor, "_ c h w"]]]]:
    """Iterate over files that fill a batch: their paths, and one image or more of each, the tiles.

    The last tiles of a batch may be beyond `batch_size`, since a picture stays whole; no other file
    is read until they are taken. The arguments are those of `answers_of`.
    """
    paths = list[Path]()
    images = list[Tensor]()
    for path in files:
        with noting(failures, path):
            images.append(read_image(path, metadata, config))
            paths.append(path)
        if sum(map(len, images)) >= batch_size:
            yield paths, images
            paths, images = [], []
    if images:
        yield paths, images
