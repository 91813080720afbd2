"""Runs that are killed, damaged and signalled, as processes: what they end with, and how fast."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fcmae.run import checkpoint
from fcmae.run.metrics import read_metrics
from fcmae.run.stopping import INTERRUPTED, PREEMPTED
from tests.support.programs import children, kill, run, start_ranks, torchrun, wait_for
from tests.support.runs import (
    assert_same_bits,
    command,
    logged,
    losses,
    newest,
    pretrain,
    start_pretraining,
)

LONG = ("--optim.steps", "12", "--run.save_every", "3", "--run.picture_every", "0")
ENDLESS = ("--optim.steps", "100000", "--run.save_every", "100000", "--run.picture_every", "0")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "uninterrupted"
    result = pretrain(run, *LONG)
    assert result.returncode == 0, result.stderr
    return run


@pytest.mark.slow
def test_a_run_killed_twice_equals_one_that_was_not(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for steps in (4, 8):  # past the first checkpoint, and past one of the second start
        process = start_pretraining(run, *LONG)
        wait_for(logged(run, steps), process)
        kill(process)
    result = pretrain(run, *LONG)
    assert result.returncode == 0, result.stderr
    assert "resuming from" in result.stdout
    assert_same_bits(run, finished)


@pytest.mark.parametrize("moment", ["workers", "step", "checkpoint"])
@pytest.mark.slow
def test_the_moment_of_the_kill_does_not_matter(
    moment: str, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    happened = {
        "workers": (run / "environment.json").exists,  # which is followed by the workers' start
        "step": logged(run, 5),
        "checkpoint": lambda: any(run.glob("step_*.tmp")),
    }[moment]
    process = start_pretraining(run, *LONG)
    wait_for(happened, process)
    time.sleep(random.Random(moment).random() * 0.02)
    kill(process)
    assert pretrain(run, *LONG).returncode == 0
    assert_same_bits(run, finished)


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("worlds", [(1, 2), (2, 1)])
def test_a_run_goes_on_with_another_number_of_processes(
    worlds: tuple[int, int], finished: Path, tmp_path: Path
) -> None:
    before, after = worlds
    run = tmp_path / "run"
    processes = start_ranks(before, *command(run, *LONG))
    wait_for(logged(run, 8), *processes)
    kill(*processes)
    result = pretrain(run, *LONG, world=after)
    assert result.returncode == 0, result.stderr
    starts = json.loads((run / "environment.json").read_text())
    assert [line["world_size"] for line in starts] == list(worlds)
    ours, theirs = losses(run), losses(finished)
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    torch.testing.assert_close(
        torch.tensor([loss for _, loss in ours]),
        torch.tensor([loss for _, loss in theirs]),
        rtol=1e-4,
        atol=0,
    )


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "one bit"])
def test_a_damaged_newest_checkpoint_costs_its_steps_and_no_more(
    damage: str, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start_pretraining(run, *LONG)
    wait_for((run / "step_0000009").exists, process)
    kill(process)
    file = newest(run) / checkpoint.OPTIMIZER
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content[:-9] if damage == "truncated" else content)
    result = pretrain(run, *LONG)
    assert result.returncode == 0, result.stderr
    assert f"{file.parent} is damaged: {file.name} differs from its SHA-256" in result.stdout
    assert_same_bits(run, finished)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)]
)
def test_a_signal_to_all_processes_of_a_job_saves_and_asks_for_another_start(
    number: signal.Signals, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start_pretraining(run, *LONG)
    wait_for(logged(run, 4), process)
    os.killpg(process.pid, number)  # data workers too, as Slurm does
    output, _ = process.communicate(timeout=60)
    assert process.returncode == PREEMPTED, output
    step = checkpoint.step_of(newest(run))
    assert f"{number.name}: stopped and saved at step {step}" in output
    assert step == len(read_metrics(run))  # nothing was lost
    assert pretrain(run, *LONG).returncode == 0
    assert_same_bits(run, finished)


@pytest.mark.dist
@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_pretraining(run, *ENDLESS, launcher=torchrun(2))
    wait_for(logged(run, 4), process)
    ranks = children(process.pid)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGUSR1)
    output, _ = process.communicate(timeout=60)
    assert "SIGUSR1: stopped and saved at step" in output
    assert checkpoint.step_of(newest(run)) == len(read_metrics(run))
    assert output.count(f"exitcode  : {PREEMPTED}") >= 1


@pytest.mark.slow
def test_ctrl_c_saves_and_a_second_one_does_not_wait(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_pretraining(run, *ENDLESS)
    wait_for(logged(run, 3), process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, output
    assert "stopping after this step; Ctrl-C again stops at once" in output
    assert checkpoint.step_of(newest(run)) >= 3

    process = start_pretraining(run, *ENDLESS, "--optim.batch_size", "8")
    wait_for(logged(run, len(read_metrics(run)) + 1), process)
    saved = newest(run)
    os.kill(process.pid, signal.SIGSTOP)  # both signals arrive before it runs again
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    time.sleep(0.002)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, output
    assert newest(run) == saved or checkpoint.check(newest(run)) is None


@pytest.mark.dist
@pytest.mark.slow
def test_a_rank_that_dies_ends_the_job_and_is_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_pretraining(run, *ENDLESS, launcher=torchrun(2))
    wait_for(logged(run, 3), process)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    died = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - died < 40  # torchrun gives survivors 30 s before it kills them
    assert process.returncode == 1
    assert "error: rank 1 of 2 died or cannot be reached" in output
    # data workers that outlive the killed rank may print some; the one that lives prints none
    assert "[rank0]: Traceback" not in output


@pytest.mark.dist
@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_every_rank_with_its_samples(tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ("--optim.base_lr", "1e30", "--run.log_every", "5", "--run.save_every", "100000")
    result = pretrain(run, *ENDLESS, *flags, world=2)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    (file,) = run.glob("not_finite_*.json")
    report = json.loads(file.read_text())
    assert len(lines) == 2, result.stderr  # one a rank
    for line in lines:
        assert f"the loss is not finite at step {report['step']}" in line
        assert f"whose samples {file} lists; newest checkpoint: None" in line
    assert 1 < report["step"] <= 5  # the first step is finite: what it leads to is not
    assert len(report["samples"]) == 4  # those of one rank
    assert all("train-00000" in sample and "sample '" in sample for sample in report["samples"])


# a program whose files end at a million bytes, which a checkpoint's tensors exceed
SMALL_FILES = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_ends_in_one_line_and_loses_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run"
    assert pretrain(path, "--optim.steps", "2").returncode == 0
    before = load_file(newest(path) / checkpoint.MODEL)
    result = run("-c", SMALL_FILES, *command(path, "--optim.steps", "6"))
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 1
    assert f"checkpoint {path}/step_0000004 cannot be written (File too large)" in line
    assert f"{path}/step_0000002 is kept" in line
    after = load_file(path / "step_0000002" / checkpoint.MODEL)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "trial", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 5))]
)
def test_of_two_starts_at_once_one_goes_on(trial: int, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    programs = [start_pretraining(run, *LONG) for _ in range(2)]
    told = [program.communicate(timeout=120)[0] for program in programs]
    assert sorted(program.returncode for program in programs) == [0, 1], told
    winner, loser = sorted(programs, key=lambda program: program.returncode)
    (line,) = told[programs.index(loser)].splitlines()
    assert line.startswith(f"error: {run} is in use by {winner.pid} on ")
    assert_same_bits(run, finished)


@pytest.mark.slow
def test_the_next_start_waits_for_one_that_is_saving(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = start_pretraining(run, *LONG)
    wait_for(logged(run, 4), first)
    os.kill(first.pid, signal.SIGSTOP)
    second = start_pretraining(run, *LONG, "--run.timeout", "1")
    output, _ = second.communicate(timeout=60)
    assert f"{run} is in use by {first.pid}" in output  # nobody has told it to stop yet
    os.kill(first.pid, signal.SIGTERM)
    os.kill(first.pid, signal.SIGCONT)
    wait_for(lambda: "stopping" in (run / "run.lock").read_text(), first)
    second = start_pretraining(run, *LONG)
    assert second.wait(timeout=120) == 0
    assert first.wait() == PREEMPTED
    assert_same_bits(run, finished)


@pytest.mark.slow
def test_a_kill_of_rank_0_alone_leaves_the_run_free(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_pretraining(run, *LONG, "--data.workers", "2")
    wait_for(logged(run, 4), process)
    os.kill(process.pid, signal.SIGKILL)  # its workers live on for seconds
    process.wait()
    result = pretrain(run, *LONG)
    assert result.returncode == 0, result.stderr
    assert_same_bits(run, finished)
