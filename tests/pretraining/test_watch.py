"""What a run tells of itself: metrics, trackers, k-NN, a dry run; and that it only tells."""

import json
import re
from pathlib import Path

import pytest
import yaml
from accelerate import Accelerator

from data.config import DataConfig
from fcmae.run.metrics import read_metrics
from fcmae.weights.conversion import convert
from finetune.frozen.neighbours import knn_accuracy
from finetune.labels.config import LabelledData
from finetune.models.backbone import backbone
from finetune.models.config import RandomConfig
from finetune.training.pretraining import PretrainConfig, PretrainRun, WatchConfig
from finetune.training.watch import check_watched
from tests.support.programs import run
from tests.support.runs import command, losses, pretrain
from tests.support.shards import write_colours

COUNT = """
import json, sys, traceback
from collections import Counter
from pathlib import Path
import torch
from torch.utils._python_dispatch import TorchDispatchMode
import pretrain

WAITS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}

class Waits(TorchDispatchMode):
    where = Counter()
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in WAITS:
            ours = [f for f in traceback.extract_stack() if Path(f.filename).parent in ROOMS]
            self.where[f"{Path(ours[-1].filename).name}:{ours[-1].name}"] += 1
        return func(*args, **(kwargs or {}))

root = Path.cwd()
ROOMS = {root, root / "fcmae", root / "fcmae" / "sparse", root / "data"}
with Waits():
    pretrain.main(sys.argv[1:])
print("WAITS", json.dumps(Waits.where))
"""


def waits(directory: Path, steps: int, *flags: str) -> dict[str, int]:
    """How often each function has asked for a value that a device would have to compute first."""
    quiet = ("--optim.steps", str(steps), "--run.log_every", str(steps), "--run.save_every", "999")
    _, *arguments = command(directory, *quiet, "--run.picture_every", "0", *flags)
    done = run("-c", COUNT, *arguments)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("WAITS ")]
    return json.loads(line.removeprefix("WAITS "))


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--optim.clip_grad", "1.0", "--optim.ema", "0.9"),
        pytest.param(("--precision", "fp16"), marks=pytest.mark.slow),
        pytest.param(("--optim.accumulate", "2"), marks=pytest.mark.slow),
    ],
)
def test_only_logging_waits_for_the_device(flags: tuple[str, ...], tmp_path: Path) -> None:
    few, many = (waits(tmp_path / str(steps), steps, *flags) for steps in (3, 9))
    checks = "masking.py:indices"  # on the CPU alone, and looked at here to know that this counts
    assert many.pop(checks) > few.pop(checks) > 0
    assert few == many
    assert few["pretrain.py:train"] > 0


def test_a_dry_run_says_what_a_run_will_be_and_leaves_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ("--optim.steps", "1000", "--run.save_every", "500", "--dry_run", "True")
    done = pretrain(run, *flags)
    assert done.returncode == 0, done.stderr
    assert not run.exists()
    assert "1000 steps of 8 on 1 x cpu" in done.stdout
    assert f"dir: {run}" in done.stdout  # the config
    assert "(decoder): Decoder(" in done.stdout  # the model
    assert "step 20/20" in done.stdout
    at = (done.stdout, re.MULTILINE)
    assert "20 steps: " in done.stdout
    assert "peak memory" in done.stdout
    assert re.search(
        r"^cpu with \d+ cores: the matrix products, [\d.]+ GFLOP an image, are \d+%", *at
    )
    assert re.search(r"^the (device|loader) holds the run: ", *at)
    assert re.search(
        r"^an image takes [\d.]+ ms of a core to read, decode and crop: [\d.]+ cores", *at
    )
    assert "all 1000 steps would take 0:" in done.stdout


@pytest.mark.slow
def test_knn_and_collapse_are_measured_and_change_nothing(tmp_path: Path) -> None:
    train, test = (write_colours(tmp_path, f"hard-{n}", n, wrong=0.5) for n in (60, 31))
    watch = ("--watch.knn_train", train, "--watch.knn_test", test, "--watch.knn_k", "5")
    watch += ("--watch.knn_every", "0.005", "--watch.collapse_every", "2")
    for name, flags in (("plain", ()), ("watched", watch)):
        done = pretrain(tmp_path / name, *flags)
        assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "plain") == losses(tmp_path / "watched")
    lines = read_metrics(tmp_path / "watched")
    assert [line["step"] for line in lines if "collapse" in line] == [2, 4, 6]
    assert all(0 < distance < 0.6 for distance in lines[1]["collapse"])
    assert len(lines[1]["collapse"]) == 12
    assert [line["step"] for line in lines if "knn_accuracy" in line] == [4, 6]  # 24 images, end
    convert(tmp_path / "watched", tmp_path / "encoder.safetensors")
    model, metadata = backbone(str(tmp_path / "encoder.safetensors"), RandomConfig())
    data = LabelledData(train=(train,), test=(test,), workers=0)
    accuracy = knn_accuracy(model, metadata, data, 5, Accelerator(cpu=True))
    assert lines[-1]["knn_accuracy"] == accuracy


@pytest.mark.slow
def test_metrics_reach_tensorboard_wandb_and_mlflow(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, store = tmp_path / "run", tmp_path / "mlflow"
    env = {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": store.as_uri()}
    done = pretrain(
        *(run, "--run.trackers", "tensorboard", "wandb", "mlflow"),
        env=env | {"MLFLOW_ALLOW_FILE_STORE": "true"},  # its databases need more than the client
    )
    assert done.returncode == 0, done.stderr
    expected = [(step, pytest.approx(loss)) for step, loss in losses(run)]
    board = EventAccumulator(str(run / "fcmae"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == expected
    (file,) = store.glob("*/*/metrics/loss")  # lines of time, value, step
    lines = [line.split() for line in file.read_text().splitlines()]
    assert [(int(step), float(value)) for _, value, step in lines] == expected
    (offline,) = run.glob("wandb/offline-run-*/*.wandb")
    content = offline.read_bytes()
    assert b"grad_norm" in content
    assert b"convnextv2_atto" in content


@pytest.mark.slow
def test_a_longer_run_is_a_resumed_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert pretrain(run).returncode == 0
    done = pretrain(run, "--optim.steps", "8")
    assert done.returncode == 0, done.stderr
    assert "optim.steps: 6 -> 8: the schedule is that of the new length from here" in done.stdout
    assert [step for step, _ in losses(run)] == [1, 2, 3, 4, 5, 6, 7, 8]
    starts = json.loads((run / "environment.json").read_text())
    assert [start["step"] for start in starts] == [0, 6]
    assert starts[1]["changed"] == ["optim.steps: 6 -> 8"]
    assert yaml.safe_load((run / "config.yaml").read_text())["optim"]["steps"] == 8


def test_what_is_watched_is_checked_before_the_first_step(tmp_path: Path) -> None:
    good = write_colours(tmp_path, "good", 9)
    bare = write_colours(tmp_path, "bare", 6, labels=False)
    for train, test, k, message in (
        (good, "nowhere/a.tar", 5, "shard nowhere/a.tar does not exist"),
        (good, bare, 5, r"bare-000000\.tar: sample 's0' has no label"),
        (good, "", 5, "watch.knn_train is there to classify watch.knn_test"),
        (bare, good, 20, r"watch\.knn_k=20 must lie between 1 and the 6 training samples"),
    ):
        watch = WatchConfig(knn_train=(train,), knn_test=(test,) if test else (), knn_k=k)
        config = PretrainConfig(
            data=DataConfig(train=(good,)), run=PretrainRun(dir=tmp_path / "run"), watch=watch
        )
        with pytest.raises((OSError, ValueError), match=message):
            check_watched(config)
