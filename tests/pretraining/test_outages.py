"""What a pretraining run writes beside its checkpoints, and fails to: it changes no number."""

import signal
from pathlib import Path

import pytest

from fcmae.run.metrics import read_metrics
from fcmae.run.stopping import PREEMPTED
from tests.support.programs import wait_for
from tests.support.runs import assert_same_bits, logged, losses, pretrain, start_pretraining


@pytest.mark.slow
def test_a_picture_that_cannot_be_written_waits_and_stops_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "pictures").write_text("no directory")
    flags = ("--optim.steps", "100000", "--run.save_every", "100000", "--run.picture_every", "3")
    process = start_pretraining(run, *flags)
    wait_for(logged(run, 10), process)
    (run / "pictures").unlink()
    wait_for((run / "pictures").exists, process)
    wait_for(logged(run, len(read_metrics(run)) + 2), process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == PREEMPTED, output
    (told,) = [line for line in output.splitlines() if line.startswith("warning: ")]
    assert f"writing {run}/pictures/step_0000003.png failed (" in told
    assert "training goes on, and the next line of metrics tries again" in told
    assert "pictures/step_00000" in output.partition(told)[2]
    pictures = sorted(path.name for path in (run / "pictures").iterdir())
    steps = [int(name.removeprefix("step_").removesuffix(".png")) for name in pictures]
    assert steps[0] < 12  # one that had waited
    assert all(step % 3 == 0 for step in steps)


@pytest.mark.slow
def test_nothing_that_fails_beside_the_numbers_changes_them(tmp_path: Path) -> None:
    assert pretrain(tmp_path / "plain").returncode == 0
    run = tmp_path / "run"
    run.mkdir()
    (run / "pictures").symlink_to("/proc/nowhere")
    (run / "metrics.jsonl").symlink_to(run / "nowhere" / "metrics.jsonl")
    done = pretrain(run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("warning: ") == 2
    (run / "metrics.jsonl").unlink()
    assert pretrain(run).returncode == 0
    assert losses(run) == losses(tmp_path / "plain")
    assert_same_bits(run, tmp_path / "plain")
