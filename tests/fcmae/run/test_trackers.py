"""Trackers start as they are installed here, or end a run in one line."""

import os
from pathlib import Path

import pytest
from accelerate import Accelerator

from fcmae.run.session import start_accelerator
from fcmae.run.trackers import MLFLOW_STORE, start_trackers
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
    start_trackers(accelerator, ["mlflow"], run, TINY)
    accelerator.log({"loss": 0.25}, step=3)
    accelerator.end_training()
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
        start_trackers(accelerator, ["wandb"], tmp_path, TINY)


def test_a_tracker_that_is_not_installed_is_named() -> None:
    from fcmae.run.processes import Processes

    with pytest.raises(
        ModuleNotFoundError, match=r"run\.trackers=trackio is not installed: pip in"
    ):
        start_accelerator(Processes(10.0), ["trackio"])
