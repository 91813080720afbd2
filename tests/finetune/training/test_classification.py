"""What fine-tuning learns from: labels that cannot be read are named, and counted."""

from pathlib import Path

import pytest
from accelerate import Accelerator

from data.shards.writing import write_shards
from finetune.labels.config import LabelledData, TaskConfig
from finetune.training.classification import read
from tests.support.images import png


def test_training_samples_whose_label_cannot_be_read_are_named_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ["0", "1", "cat", "1", "0", "1"]
    samples = ({"__key__": f"s{i}", "png": png(i), "cls": c.encode()} for i, c in enumerate(labels))
    write_shards(samples, tmp_path, "train", 6)
    shards = (str(tmp_path / "train-000000.tar"),)
    data = LabelledData(train=shards, test=shards, max_bad_fraction=0.2)
    found = read(data, TaskConfig(), Accelerator(cpu=True), report_on="held_out", verify=False)
    assert found.samples.tolist() == [0, 1, 3, 4, 5]
    assert [(bad.shard, bad.number) for bad in found.unlabelled] == [("train-000000.tar", 2)]
    said = capsys.readouterr().out
    assert (
        said.count("skipped train-000000.tar: sample 's2': cls is 'cat', not a class number") == 1
    )
