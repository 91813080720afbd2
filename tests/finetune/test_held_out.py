"""The side that is reported on: a test that has to be named, or a share of the training data."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from finetune import few_shot, knn, linear_probe, segment, train
from tests.support.models import TINY_FLAGS
from tests.support.shards import write_colours


@pytest.fixture
def held_out(tmp_path: Path) -> tuple[str, ...]:
    """Flags of a program that reports on a share of 30 samples, and is told of no others."""
    data = ("--data.train", write_colours(tmp_path, "train", 30), "--data.workers", "0")
    flags = ("--report_on", "held_out", "--out", str(tmp_path / "out.json"))
    return (*data, *flags, *TINY_FLAGS, "--optim.steps", "1", "--optim.batch_size", "8")


def test_held_out_data_are_reported_on_without_a_test(
    held_out: tuple[str, ...], tmp_path: Path
) -> None:
    train.main(held_out)
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["train_samples"], result["held_out_samples"]) == (24, 6)
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert config["data"]["test"] == []
    (tmp_path / "out.json").unlink()
    train.main(held_out)  # resumes, since the config is the same
    assert json.loads((tmp_path / "out.json").read_text()) == result


def test_few_labels_are_held_out_without_a_test(held_out: tuple[str, ...], tmp_path: Path) -> None:
    few = ("--methods", "probe", "--starts", "random", "--seeds", "1", "--probe_epochs", "2")
    few_shot.main([*held_out, *few, "--fractions", "0.5"])
    (cell,) = (tmp_path / "out").glob("*.json")
    result = json.loads(cell.read_text())
    assert result["data"].keys() == {"train"}
    assert sum(row["samples"] for row in result["measured"]["per_class"].values()) == 6


@pytest.mark.parametrize("main", [train.main, few_shot.main, segment.main])
def test_a_test_that_is_reported_on_has_to_be_named_or_done_without(
    main: Callable[[Sequence[str]], None], tmp_path: Path
) -> None:
    flags = ["--data.train", "a.tar", "--out", str(tmp_path / "out.json")]
    with pytest.raises(ValueError, match=r"^data\.test is empty.* --data\.test, or --report_on he"):
        main(flags)


@pytest.mark.parametrize("main", [linear_probe.main, knn.main])
def test_frozen_features_are_reported_on_by_a_test_alone(
    main: Callable[[Sequence[str]], None], tmp_path: Path
) -> None:
    flags = ["--data.train", "a.tar", "--out", str(tmp_path / "out.json"), "--weights", "none"]
    with pytest.raises(ValueError, match=r"^data\.test is empty.* shards as --data\.test$"):
        main(flags)
