"""MAE's ViT goes all the way that a ConvNeXt goes, by the same programs."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fcmae.run import checkpoint
from fcmae.run.metrics import read_metrics
from fcmae.weights.conversion import convert
from fcmae.weights.files import read_weights
from finetune.models import classifier
from tests.support.programs import lines_of, run
from tests.support.runs import assert_same_bits, kill_and_resume, newest, pretrain

pytestmark = pytest.mark.slow

VIT = ("--model.name", "mae_vit_tiny", "--model.stem_stride", "2", "--model.decoder_depth", "1")
DEMO = (
    "--data.train",
    "data/demo/train-000000.tar.gz",
    "--data.test",
    "data/demo/test-000000.tar.gz",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "vit"
    result = pretrain(run, *VIT)
    assert result.returncode == 0, result.stderr
    return run


def test_a_run_learns_draws_and_looks(finished: Path) -> None:
    lines = read_metrics(finished)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(line.get("rankme", 1.0) >= 1 for line in lines)
    assert (finished / "pictures" / "step_0000006.png").is_file()
    looks = load_file(finished / "watched" / "step_0000006.safetensors")
    assert looks["features"].shape == (8, 192)
    assert looks["stage4.values"].shape == (8, 8)  # channels, and a site in each image
    assert looks["stage4.rows"].max() < 4


def test_a_run_that_was_killed_equals_one_that_was_not(finished: Path, tmp_path: Path) -> None:
    saved = tmp_path / "run" / "step_0000002"
    kill_and_resume(tmp_path / "run", *VIT, when=saved.exists)
    assert_same_bits(tmp_path / "run", finished)


@pytest.mark.dist
def test_two_processes_see_what_one_sees(finished: Path, tmp_path: Path) -> None:
    result = pretrain(tmp_path / "run", *VIT, world=2)
    assert result.returncode == 0, result.stderr
    ours, theirs = (
        torch.tensor([line["loss"] for line in read_metrics(r)])
        for r in (tmp_path / "run", finished)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)
    a, b = (load_file(newest(r) / checkpoint.MODEL) for r in (tmp_path / "run", finished))
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in b)


def test_its_weights_are_probed_tuned_and_used(finished: Path, tmp_path: Path) -> None:
    weights = tmp_path / "vit.safetensors"
    convert(finished, weights)
    common = (*DEMO, "--weights", str(weights), "--data.workers", "0")
    done = run("-m", "finetune.knn", *common, "--out", tmp_path / "knn.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "knn.json").read_text())["test_accuracy"]["mean"] > 0.1
    short = ("--optim.steps", "2", "--optim.batch_size", "8", "--optim.layer_decay", "0.7")
    out = tmp_path / "tuned.json"
    done = run("-m", "finetune.train", *common, *short, "--drop_path", "0.1", "--out", out)
    assert done.returncode == 0, done.stderr
    tuned = out.with_suffix("") / "weights.safetensors"
    model, metadata, task = classifier.load(tuned)
    assert metadata.architecture == read_weights(weights).architecture
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, task.outputs)
    told = convert(tuned, tmp_path / "again.safetensors")
    assert f"classifier of {task.outputs} classes kept" in told


def test_what_no_vit_has_ends_in_one_line(tmp_path: Path) -> None:
    result = pretrain(tmp_path / "run", *VIT, "--run.recompute", "0")
    assert result.returncode == 1
    (line,) = [line for line in lines_of(result.stderr) if line.startswith("error: ")]
    assert "goes with neither run.recompute nor watch.collapse_every" in line
