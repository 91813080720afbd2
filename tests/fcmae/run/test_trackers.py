"""Trackers start as they are installed here, or end a run in one line; later they end none."""

import os
import threading
from pathlib import Path

import pytest
from accelerate import Accelerator

from fcmae.run.starting import start_accelerator
from fcmae.run.trackers import MLFLOW_STORE, Trackers
from tests.support.limits import files_end_at
from tests.support.models import TINY


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No login and no place for runs, and none left behind."""
    for name in (MLFLOW_STORE, "MLFLOW_ALLOW_FILE_STORE", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.usefixtures("environment")
def test_mlflow_writes_beside_the_run(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    accelerator = Accelerator(cpu=True, log_with=["mlflow"])
    trackers = Trackers(accelerator, ["mlflow"], run, TINY)
    trackers.log({"step": 3, "loss": 0.25})
    trackers.finish()
    (metric,) = (tmp_path / "runs" / "mlruns").glob("*/*/metrics/loss")
    assert metric.read_text().split()[1:] == ["0.25", "3"]
    (size,) = (tmp_path / "runs" / "mlruns").glob("*/*/params/image_size")
    assert size.read_text() == "16"
    assert os.environ[MLFLOW_STORE].endswith("/runs/mlruns")


@pytest.mark.usefixtures("environment")
def test_wandb_without_a_login_is_one_line(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True, log_with=["wandb"])
    with pytest.raises(
        ConnectionError, match=r"run\.trackers=wandb cannot start: .*wandb login, or"
    ):
        Trackers(accelerator, ["wandb"], tmp_path, TINY)


def test_a_tracker_that_is_not_installed_is_named() -> None:
    from fcmae.run.processes import Processes

    with pytest.raises(
        ModuleNotFoundError, match=r"run\.trackers=trackio is not installed: pip in"
    ):
        start_accelerator(Processes(10.0), ["trackio"])


@pytest.mark.usefixtures("environment")
def test_a_tracker_that_fails_for_a_while_is_told_of_once_and_tried_again_ever_less(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accelerator = Accelerator(cpu=True, log_with=["mlflow"])
    trackers = Trackers(accelerator, ["mlflow"], tmp_path / "runs" / "mine", TINY)
    store, away = tmp_path / "runs" / "mlruns", tmp_path / "away"
    trackers.log({"step": 1, "loss": 0.5})
    capsys.readouterr()
    store.rename(away)
    store.write_text("no store")
    for step in (2, 3, 4):
        trackers.log({"step": step, "loss": 0.5})
    store.unlink()
    away.rename(store)
    for step in range(5, 12):
        trackers.log({"step": step, "loss": 0.5})
    trackers.finish()
    (metric,) = store.glob("*/*/metrics/loss")
    steps = [int(line.split()[2]) for line in metric.read_text().splitlines()]
    assert steps == [1, 5, 6, 7, 8, 9, 10, 11]  # 2 and 3 were tried, and 4 was not
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2
    assert told[0].startswith("warning: logging to mlflow failed (")
    assert told[0].endswith("); training goes on, and metrics.jsonl has all lines")
    assert told[1] == "logging to mlflow works again"


@pytest.mark.usefixtures("environment")
def test_a_tracker_whose_thread_dies_on_a_full_disk_ends_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    accelerator = Accelerator(cpu=True, log_with=["tensorboard"], project_dir=tmp_path)
    hook = threading.excepthook
    trackers = Trackers(accelerator, ["tensorboard"], tmp_path, TINY)
    trackers.log({"step": 1, "loss": 0.5})
    written = max(path.stat().st_size for path in tmp_path.rglob("events*"))
    with files_end_at(written + 9):
        for step in range(2, 9):
            trackers.log({"step": step, "loss": 0.5})
    trackers.log({"step": 9, "loss": 0.5})
    trackers.finish()
    threading.excepthook = hook
    assert accelerator.trackers == []
    told = capfd.readouterr()
    assert told.out.count("warning: ") == 1
    assert "warning: logging to tensorboard failed (OSError: File too large); tr" in told.out
    assert "Traceback" not in told.err
