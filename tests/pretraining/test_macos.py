"""What macOS lacks or does otherwise, hidden or switched here: a run is the same without it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fcmae.run.metrics import count_metrics
from fcmae.run.stopping import PREEMPTED
from tests.support.programs import ROOT, environment
from tests.support.runs import assert_same_bits, command, pretrain

# Python imports it in each process before anything else, in spawned workers too
SITE = "import signal\ndel signal.sigwaitinfo, signal.sigtimedwait\n"
SPAWNING = """
import multiprocessing
import runpy
import sys

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start_as_on_macos(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start a program in an interpreter of its own, without `sigwaitinfo`, with spawned workers."""
    (folder / "sitecustomize.py").write_text(SITE)
    (folder / "spawning.py").write_text(SPAWNING)
    paths = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, str(folder / "spawning.py"), *words],
        cwd=ROOT,
        env=environment({"PYTHONPATH": paths}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_run_that_is_told_to_stop_saves_and_goes_on_to_the_same_end(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = command(run, "--optim.steps", "40", "--run.save_every", "1000")
    process = start_as_on_macos(tmp_path, *words)
    while count_metrics(run) < 3:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)  # workers too
    output, _ = process.communicate(timeout=60)
    assert process.returncode == PREEMPTED, output
    assert "stopped and saved at step" in output
    output, _ = start_as_on_macos(tmp_path, *words).communicate(timeout=300)
    assert "resuming from" in output
    alone = pretrain(tmp_path / "alone", "--optim.steps", "40", "--run.save_every", "1000")
    assert alone.returncode == 0, alone.stderr
    assert_same_bits(run, tmp_path / "alone")
