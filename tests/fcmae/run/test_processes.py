"""Groups of processes that do not meet, or of which one stops."""

import socket

import pytest

from tests.support.programs import start, start_ranks

# rank 1 stops, and the others wait for it
PROGRAM = """
import sys
import torch
from fcmae.run.program import run_program
from fcmae.run.processes import Processes

def main(argv):
    processes = Processes(float(argv[0]))
    with processes.naming_the_lost():
        if processes.rank == 1:
            raise torch.OutOfMemoryError("tried to allocate 1 GiB")
        torch.distributed.barrier()

run_program(main)
"""


@pytest.mark.dist
def test_a_process_that_fails_by_itself_blames_no_other() -> None:
    waiting, failing = start_ranks(2, "-c", PROGRAM, 60)
    assert (waiting.wait(120), failing.wait(120)) == (1, 1)
    told, own = waiting.communicate()[0], failing.communicate()[0]
    assert "error: rank 1 stopped: OutOfMemoryError: tried to allocate 1 GiB\n" in told
    assert "torch.OutOfMemoryError: tried to allocate 1 GiB\n" in own
    assert "rank 0" not in own


@pytest.mark.dist
@pytest.mark.parametrize("rank", [0, 1])
def test_processes_that_do_not_meet_say_where_they_waited(rank: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    alone = start("-c", PROGRAM, 1, env=place | {"RANK": str(rank), "WORLD_SIZE": "2"})
    assert alone.wait(120) == 1
    told, _ = alone.communicate()
    assert "Traceback" not in told
    assert f"error: rank {rank}: the 2 processes did not meet at 127.0.0.1:" in told
    assert "or raise run.timeout=1\n" in told
