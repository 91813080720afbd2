"""Groups of processes that do not meet, or of which one stops."""

import os
import socket
import subprocess
import sys

import pytest

from tests.support.runs import ROOT

# rank 1 stops, and the others wait for it
PROGRAM = """
import sys
import torch
from fcmae.run.config import run_program
from fcmae.run.processes import Processes

def main(argv):
    processes = Processes(float(argv[0]))
    with processes.naming_the_lost():
        if processes.rank == 1:
            raise torch.OutOfMemoryError("tried to allocate 1 GiB")
        torch.distributed.barrier()

run_program(main)
"""


def start(ranks: list[int], timeout: float) -> list[tuple[int, str]]:
    """Status and standard error of some ranks of two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(timeout)],
            cwd=ROOT,
            env=os.environ | place | {"RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ranks
    ]
    errors = [process.communicate(timeout=120)[1] for process in started]
    return [(process.returncode, error) for process, error in zip(started, errors, strict=True)]


@pytest.mark.dist
def test_a_process_that_fails_by_itself_blames_no_other() -> None:
    (waiting, told), (failing, own) = start([0, 1], timeout=60)
    assert (waiting, failing) == (1, 1)
    assert "error: rank 1 stopped: OutOfMemoryError: tried to allocate 1 GiB\n" in told
    assert "torch.OutOfMemoryError: tried to allocate 1 GiB\n" in own
    assert "rank 0" not in own


@pytest.mark.dist
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.slow
def test_processes_that_do_not_meet_say_where_they_waited(rank: int) -> None:
    ((status, stderr),) = start([rank], timeout=1)
    assert status == 1
    assert "Traceback" not in stderr
    assert f"error: rank {rank}: the 2 processes did not meet at 127.0.0.1:" in stderr
    assert "or raise run.timeout=1\n" in stderr
