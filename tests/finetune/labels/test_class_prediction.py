"""A classifier takes image files in batches, of which one is in memory at a time."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.config import FittedConfig
from finetune.labels.class_prediction import answers_of
from finetune.labels.tasks import Task
from finetune.models.accelerated import accelerated
from finetune.models.classifier import create
from finetune.models.config import BackboneConfig
from tests.support.images import png
from tests.support.models import TINY

TASK = Task(kind="class", field="", names=("a", "b", "c"))


def test_batches_are_full_without_the_broken_and_read_no_further(tmp_path: Path) -> None:
    model, metadata = create(BackboneConfig(random=TINY, head_init_scale=1.0), 3, 0)
    forward = accelerated(model)
    taken, read = list[int](), list[int]()

    def counting(images: Tensor) -> Tensor:
        taken.append(len(images))
        return forward(images)

    def files():
        for i in range(10):
            read.append(i)
            path = tmp_path / f"{i}.png"
            path.write_bytes(b"nonsense" if i == 1 else png(i))
            yield path

    failures = list[str]()
    rows = answers_of(
        counting, metadata, TASK, files(), FittedConfig(), batch_size=4, failures=failures
    )
    first, _ = next(rows)
    assert first.stem == "0"
    assert read == [0, 1, 2, 3, 4]
    assert [path.stem for path, _ in rows] == list("23456789")
    assert taken == [4, 4, 1]
    assert len(failures) == 1
    assert "1.png" in failures[0]


def test_many_tiles_of_a_picture_are_taken_in_parts(tmp_path: Path) -> None:
    model, metadata = create(BackboneConfig(random=TINY, head_init_scale=1.0), 3, 0)
    taken = list[int]()

    def counting(images: Tensor) -> Tensor:
        taken.append(len(images))
        return model(images)

    model.eval()
    wide = tmp_path / "wide.png"
    wide.write_bytes(png(0, (16, 160)))
    rows = answers_of(
        counting, metadata, TASK, [wide], FittedConfig(fit="tiles"), batch_size=4, failures=[]
    )
    assert len(list(rows)) == 1
    assert taken == [4, 4, 2]


def test_answers_that_are_not_finite_cost_their_image_alone(tmp_path: Path) -> None:
    _, metadata = create(BackboneConfig(random=TINY), 3, 0)
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.full((16, 16, 3), i * 100, np.uint8))

    def of_the_second(images: Tensor) -> Tensor:
        outputs = torch.zeros(len(images), 3)
        outputs[1] = torch.nan
        return outputs

    files, failures = sorted(tmp_path.iterdir()), list[str]()
    rows = answers_of(
        of_the_second, metadata, TASK, files, FittedConfig(), batch_size=8, failures=failures
    )
    assert [path.stem for path, _ in rows] == ["0", "2"]
    assert len(failures) == 1
    assert f"1 of 1 samples are not finite, first for {files[1]}" in failures[0]
