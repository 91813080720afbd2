"""The soak kills runs at random moments, goes on where it was ended, and finds what differs."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fcmae.run.checkpoint import MODEL
from scripts.kills.soaking import STEPS, compare
from tests.support.programs import run
from tests.support.runs import pretrain


@pytest.mark.slow
@pytest.mark.dist
def test_killed_runs_of_one_and_of_two_processes_end_as_those_that_were_not(tmp_path: Path) -> None:
    command = ("scripts/soak.py", "--modes", "one", "fsdp2", "--dir", tmp_path)
    for kills in (2, 4):  # in two pieces
        done = run(*command, "--kills", kills)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1].startswith("every run equals, to the last bit, the one")
        lines = [json.loads(line) for line in (tmp_path / "kills.jsonl").read_text().splitlines()]
        assert sorted((line["mode"], line["kill"]) for line in lines) == [
            (mode, kill + 1) for mode in ("fsdp2", "one") for kill in range(kills // 2)
        ]


@pytest.mark.slow
def test_a_run_that_differs_by_one_bit_or_lacks_a_step_is_found(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("one", "other")]
    for path in runs:
        flags = ("--optim.steps", str(STEPS), "--run.save_every", str(STEPS), "--optim.batch_size")
        assert pretrain(path, *flags, "4", "--run.picture_every", "0").returncode == 0
    compare(*runs)
    file = runs[0] / f"step_{STEPS:07d}" / MODEL
    tensors = load_file(file)
    tensor = next(iter(tensors.values()))
    tensor.view(torch.int32).flatten()[0] ^= 1
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"one/step_0000036/model\.safetensors differs from"):
        compare(*runs)
    metrics = runs[0] / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(ValueError, match="one: a step is missing in the metrics, or twice there"):
        compare(*runs)


# a fork server of its own, which is small: a start takes milliseconds
LANES = """
import multiprocessing, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from scripts.kills.forked import Start
forking = multiprocessing.get_context("forkserver")
forking.set_forkserver_preload(["scripts.kills.forked"])
program, output = sys.argv[1:]
def lane(status):
    starts = [Start(forking, [program, str(status)], 1, {}, Path(output)) for _ in range(40)]
    return [start.ended() for start in starts]
with ThreadPoolExecutor(4) as lanes:
    print(*lanes.map(lane, range(4)), sep="\\n")
"""


def test_threads_that_start_processes_at_once_are_told_the_status_of_their_own(
    tmp_path: Path,
) -> None:
    program = tmp_path / "program.py"
    program.write_text("import sys\nsys.exit(int(sys.argv[1]))\n")
    done = run("-c", LANES, program, tmp_path / "output.txt")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str([status] * 40) for status in range(4)]
