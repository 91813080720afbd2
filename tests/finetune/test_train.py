"""Fine-tuning as processes: what a run leaves, resumes, reports and refuses."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torchmetrics.functional.classification import multilabel_average_precision

from data.shards.writing import write_shards
from data.transforms import Normalise
from fcmae.run import checkpoint
from fcmae.run.metrics import read_metrics
from fcmae.run.program import run_program
from fcmae.weights.timm_models import save_timm
from finetune.models import classifier
from finetune.models.backbone import backbone
from finetune.train import main
from tests.support.images import coloured, png
from tests.support.models import TINY, TINY_FLAGS
from tests.support.programs import kill, run, start, wait_for
from tests.support.runs import assert_same_bits, logged
from tests.support.shards import write_colours

SHORT = ("--optim.steps", "6", "--optim.batch_size", "8", "--data.workers", "1")
SHORT += ("--run.log_every", "1", "--run.save_every", "3", "--data.max_bad_fraction", "0.2")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("shards")
    (folder / "classes.json").write_text('["red", "green", "blue"]')
    return {
        "train": write_colours(folder, "train", 30, broken={4}),
        "test": write_colours(folder, "test", 12),
    }


def command(shards: dict[str, str], out: Path, *flags: str) -> list[str]:
    data = ("--data.train", shards["train"], "--data.test", shards["test"], "--out", str(out))
    return [*data, *SHORT, *flags]


def train(
    shards: dict[str, str], out: Path, *flags: str, world: int = 1
) -> subprocess.CompletedProcess[str]:
    return run("-m", "finetune.train", *command(shards, out, *flags), world=world)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted weights, of the random initialisation."""
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    model, metadata = backbone("none", TINY)
    save_timm(path, model.state_dict(), metadata)
    return path


@pytest.fixture(scope="module")
def whole(
    shards: dict[str, str], weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """An undisturbed run, with everything that draws: what the others are compared with."""
    out = tmp_path_factory.mktemp("run") / "whole.json"
    return out, train(shards, out, "--weights", str(weights), *DRAWING)


DRAWING = ("--drop_path", "0.2", "--augment.mixup", "0.8", "--augment.cutmix", "1.0")
DRAWING += ("--optim.ema", "0.9")


def assert_same_runs(one: Path, other: Path) -> None:
    """Equal losses, and equal tensors in the last checkpoints and the written weights."""
    runs = [out.with_suffix("") for out in (one, other)]
    assert_same_bits(*runs)
    ours, theirs = (load_file(run / "weights.safetensors") for run in runs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_run_leaves_result_weights_metrics_and_picture(whole) -> None:
    out, done = whole
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["train_samples"] == 30
    assert result["test_samples"] == 12
    assert set(result["per_class"]) == {"red", "green", "blue"}
    directory = out.with_suffix("")
    then = f"fcmae predict IMAGES --weights {directory}/weights.safetensors"
    assert done.stdout.endswith(f"\nwritten: {out}\nnext: {then}\n")
    assert [line["step"] for line in read_metrics(directory)] == [1, 2, 3, 4, 5, 6]
    assert (directory / "confusion.png").is_file()
    assert checkpoint.latest(directory) == directory / "step_0000006"


def answers_of(weights: Path) -> torch.Tensor:
    """What a written model answers for the 12 images of the test shard."""
    model, metadata, task = classifier.load(weights)
    pixels = torch.from_numpy(np.stack([coloured(i) for i in range(12)])).permute(0, 3, 1, 2)
    with torch.no_grad():
        outputs = model.eval()(Normalise(metadata.mean, metadata.std, 3)(pixels))
    return task.answers(outputs)


def test_the_reported_accuracy_is_that_of_the_written_model(whole) -> None:
    out, _ = whole
    found = answers_of(out.with_suffix("") / "weights.safetensors").argmax(1)
    right = found == torch.arange(12) % 3
    result = json.loads(out.read_text())
    assert result["accuracy"] == pytest.approx(right.float().mean().item())
    recalls = [result["per_class"][name]["recall"] for name in ("red", "green", "blue")]
    assert recalls == pytest.approx(right.view(4, 3).float().mean(0).tolist())


def test_a_broken_training_image_is_named_and_another_chosen_one_learned(whole) -> None:
    out, done = whole
    assert "skipped train-000000.tar: sample 's4': 8 bytes cannot be decoded" in done.stdout
    assert read_metrics(out.with_suffix(""))[-1]["bad_samples"] == {"train-000000.tar": 1}


def test_the_written_model_is_the_average_and_knows_its_task(whole) -> None:
    out, _ = whole
    directory = out.with_suffix("")
    model, metadata, task = classifier.load(directory / "weights.safetensors")
    averages = load_file(directory / "step_0000006" / "ema.safetensors")
    named = dict(model.named_parameters())
    assert all(torch.equal(named[name], average) for name, average in averages.items())
    assert task.names == ("red", "green", "blue")
    assert metadata.image_size == (16, 16)


def test_the_written_model_loads_through_timm(whole) -> None:
    path = whole[0].with_suffix("") / "weights.safetensors"
    options = {"num_classes": 3, "patch_size": 1, "checkpoint_path": str(path)}
    theirs = timm.create_model("convnextv2_atto", **options).eval()
    ours, _, _ = classifier.load(path)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(ours.eval()(x), theirs(x))


@pytest.mark.slow
def test_a_killed_run_ends_with_the_bits_of_an_undisturbed_one(
    whole, shards: dict[str, str], weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed.json"
    argv = command(shards, out, "--weights", str(weights), *DRAWING)
    process = start("-m", "finetune.train", *argv)
    wait_for(lambda: checkpoint.latest(out.with_suffix("")) is not None, process)
    kill(process)
    done = train(shards, out, "--weights", str(weights), *DRAWING)
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stdout
    assert_same_runs(whole[0], out)


@pytest.mark.slow
def test_a_signal_saves_and_exits_with_the_status_of_pretraining(
    whole, shards: dict[str, str], weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stopped.json"
    flags = ("--weights", str(weights), *DRAWING, "--run.save_every", "1000")
    process = start("-m", "finetune.train", *command(shards, out, *flags))
    wait_for(logged(out.with_suffix(""), 2), process)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate()
    assert process.returncode == 75, told
    assert "SIGTERM: stopped and saved at step" in told
    done = train(shards, out, *flags)
    assert done.returncode == 0, done.stderr
    assert_same_runs(whole[0], out)


@pytest.mark.dist
@pytest.mark.slow
def test_two_processes_learn_from_the_same_samples(
    shards: dict[str, str], weights: Path, tmp_path: Path
) -> None:
    flags = ("--weights", str(weights), "--optim.accumulate", "1")
    for name, world in (("one", 1), ("two", 2)):
        done = train(shards, tmp_path / f"{name}.json", *flags, world=world)
        assert done.returncode == 0, done.stderr
    one, two = ([line["loss"] for line in read_metrics(tmp_path / n)] for n in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-4)  # sums in another order
    one, two = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("one", "two"))
    assert two["test_samples"] == one["test_samples"] == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("labels", ("--task.field", "tags", "--task.balance", "0.5")),
        ("value", ("--task.field", "size")),
    ],
)
def test_labels_and_values_are_learned_too(
    kind: str, flags: tuple[str, ...], shards: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    steps = ("--optim.steps", "2", "--random.image_size", "16", *TINY_FLAGS)
    done = train(shards, out, "--task.kind", kind, *flags, *steps)
    assert done.returncode == 0, done.stderr
    weights, result = tmp_path / "out" / "weights.safetensors", json.loads(out.read_text())
    assert classifier.load(weights)[2].kind == kind
    answers, colours = answers_of(weights), torch.arange(12) % 3
    if kind == "value":
        mae = (answers.flatten() - colours).abs().mean().item()
        assert result["mae"] == pytest.approx(mae, rel=1e-4)
    else:
        tags = torch.nn.functional.one_hot(colours, 3)
        tags[:, 2] = 1  # which all have
        precision = multilabel_average_precision(answers, tags, 3).item()
        assert result["map"] == pytest.approx(precision)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_any_timm_backbone_runs_under_the_same_protocol(
    name: str, shards: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    flags = ("--backbone", f"timm:{name}", "--random.image_size", "32", "--optim.steps", "2")
    done = train(shards, out, *flags, "--drop_path", "0.1")
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["model"] == f"timm:{name}"
    classifier.load(tmp_path / "out" / "weights.safetensors")


@pytest.mark.slow
def test_held_out_groups_are_reported_on_and_the_test_is_not_read(
    shards: dict[str, str], weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    flags = ("--weights", str(weights), "--report_on", "held_out", "--data.group", "object")
    done = train(shards | {"test": "nowhere.tar"}, out, *flags)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    # 2 of 10 objects of 3 images each
    assert (result["train_samples"], result["held_out_samples"]) in ((24, 6), (24, 5))
    assert "test_samples" not in result


@pytest.mark.slow
def test_another_config_in_the_same_place_is_refused(whole, shards, weights: Path) -> None:
    out, _ = whole
    done = train(shards, out, "--weights", str(weights), *DRAWING, "--optim.base_lr", "1.0")
    assert done.returncode == 1
    assert "holds a run with another config (optim.base_lr: 0.004 -> 1.0)" in done.stderr


def refused(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The line in which the program ends."""
    monkeypatch.setattr(sys, "argv", ["finetune.train", *argv])
    with pytest.raises(SystemExit) as stopped:
        run_program(main)
    assert "\n" not in str(stopped.value)
    return str(stopped.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--backbone", "timm:resnet8"), "timm has no such model; did you mean"),
        (("--backbone", "resnet18"), "backbone=resnet18 must be timm:NAME"),
        (("--pretrained",), "pretrained=True is for timm's weights: give --backbone timm:NAME"),
        (("--weights", "a", "--backbone", "timm:resnet18"), "weights=a and backbone=timm:resnet18"),
        (("--backbone", "timm:resnet18", "--image_size", "8"), "give --random.image_size"),
        (("--task.classes", "2"), "labels up to 2, but there are 2 classes"),
        (("--task.classes", "4"), "no training sample is of class 3"),
        (("--optim.layer_decay", "0"), "optim.layer_decay=0.0 must lie in (0, 1]"),
        (("--run.log_every", "0"), "run.log_every=0 must be at least 1"),
        (("--data.group", "patient"), "has no json field 'patient'"),
    ],
)
def test_flags_that_cannot_be_meant_end_in_one_line(
    flags: tuple[str, ...],
    message: str,
    shards: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    argv = command(shards, tmp_path / "out.json", *TINY_FLAGS, *flags)
    assert message in refused(argv, monkeypatch)


def test_training_samples_without_a_label_are_refused(
    shards: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards([{"__key__": "s0", "png": png(0)}], tmp_path, "train", 1)
    unlabelled = shards | {"train": str(tmp_path / "train-000000.tar")}
    told = refused(command(unlabelled, tmp_path / "out.json", *TINY_FLAGS), monkeypatch)
    assert "train-000000.tar: sample 's0' has no label; fcmae shards make gives" in told


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({}, "test-000000.tar: sample 's0' has no label"),
        ({"cls": 3}, "have classes [3] that the training data lacks: add samples of them"),
    ],
)
def test_test_samples_without_a_learned_label_are_refused(
    label: dict[str, int],
    message: str,
    shards: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_shards([{"__key__": "s0", "png": png(0), **label}], tmp_path, "test", 1)
    other = shards | {"test": str(tmp_path / "test-000000.tar")}
    argv = command(other, tmp_path / "out.json", *TINY_FLAGS, "--optim.steps", "1")
    assert message in refused(argv, monkeypatch)


def test_weights_of_another_program_are_refused(
    shards: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "resnet.safetensors"
    save_file(timm.create_model("resnet18").state_dict(), foreign)
    argv = command(shards, tmp_path / "out.json", "--weights", str(foreign))
    assert "no ConvNeXt: neither the stem of timm's names" in refused(argv, monkeypatch)


@pytest.mark.slow
def test_metrics_reach_trackers(shards: dict[str, str], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "out.json"
    done = train(shards, out, *TINY_FLAGS, "--run.trackers", "tensorboard")
    assert done.returncode == 0, done.stderr
    board = EventAccumulator(str(tmp_path / "out" / "fcmae"))
    board.Reload()
    found = [(event.step, event.value) for event in board.Scalars("loss")]
    lines = read_metrics(tmp_path / "out")
    assert found == [(line["step"], pytest.approx(line["loss"])) for line in lines]
