"""fcmae.run.progress: the watched steps of a training loop."""

import json
import re
import time
from pathlib import Path

import pytest
import torch

from fcmae.run.checkpoint import TrainState
from fcmae.run.metrics import read_metrics
from fcmae.run.progress import Progress


def progress_of(run: Path, steps: range = range(4), *, shown: bool = True) -> Progress:
    run.mkdir(exist_ok=True)
    return Progress(run, steps, 8, torch.device("cpu"), names, shown=shown)


def names(step: int, rank: int) -> list[str]:
    return [f"step {step} of rank {rank}"]


def test_iterates_over_the_steps_that_are_left(tmp_path: Path):
    assert list(progress_of(tmp_path, range(3, 6))) == [3, 4, 5]


def test_mean_loss_of_one_process_is_its_own(tmp_path: Path):
    progress = progress_of(tmp_path)
    progress.note(1, torch.tensor(0.5))
    assert progress.mean_loss(torch.tensor(0.25), 1e-3) == 0.25


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_first_step_that_is_not_finite_ends_the_run_with_its_samples(tmp_path: Path, value: float):
    progress = progress_of(tmp_path)
    for step, loss in enumerate([1.0, value, value, 1.0], start=1):
        progress.note(step, torch.tensor(loss))
    with pytest.raises(FloatingPointError, match="not finite at step 2 "):
        progress.mean_loss(torch.tensor(1.0), 1e-3)
    listed = json.loads((tmp_path / "not_finite_0000002.json").read_text())
    assert listed["samples"] == ["step 1 of rank 0"]


def test_the_rate_is_not_blamed_for_a_loss_that_the_first_step_has(tmp_path: Path):
    for start, weights in ((0, r"in init\.weights, if they are given,"), (3, r"of .*step_0000003")):
        progress = progress_of(tmp_path, range(start, 6))
        if start:
            (tmp_path / f"step_{start:07d}").mkdir()
        progress.note(start + 1, torch.tensor(float("nan")))
        with pytest.raises(FloatingPointError) as caught:
            progress.mean_loss(torch.tensor(1.0), 1e-3)
        assert re.search(f"the first of this start.*look for NaN .*{weights}", str(caught.value))
        assert "base_lr" not in str(caught.value)


def test_line_counts_what_came_since_the_last_log(tmp_path: Path):
    progress = progress_of(tmp_path)
    batches = iter([{"image": 0}])
    assert progress.take(batches) == {"image": 0}
    progress.log(progress.line(TrainState(2, 16), 0.5, 1e-3, torch.tensor(2.0)))
    began = time.perf_counter()
    time.sleep(0.05)
    line = progress.line(TrainState(3, 24), 0.5, 1e-3, torch.tensor(2.0))
    assert line["images_per_s"] == pytest.approx(8 / (time.perf_counter() - began), rel=0.2)
    assert line["data_wait"] == 0


def test_waiting_for_data_is_a_share_of_the_time(tmp_path: Path):
    def slowly():
        time.sleep(0.05)
        yield {}

    progress = progress_of(tmp_path)
    progress.take(slowly())
    line = progress.line(TrainState(1, 8), 0.5, 1e-3, torch.tensor(2.0))
    assert 0.5 < line["data_wait"] <= 1


def test_log_writes_and_shows_on_one_process_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for shown in (False, True):
        progress = progress_of(tmp_path, shown=shown)
        progress.log(progress.line(TrainState(2, 16), 0.5, 1e-3, torch.tensor(2.0)))
    (line,) = read_metrics(tmp_path)
    assert (line["step"], line["samples_seen"], line["grad_norm"]) == (2, 16, 2.0)
    (text,) = capsys.readouterr().out.splitlines()
    assert text.startswith("step 2/4  loss 0.5000  lr 1.00e-03  ")


def test_norm_that_is_not_finite_is_written_as_none(tmp_path: Path):
    line = progress_of(tmp_path).line(TrainState(1, 8), 0.5, 1e-3, torch.tensor(float("inf")))
    assert line["grad_norm"] is None
