"""Threads: all cores of a process, whatever launched it, unless its user says otherwise."""

import os

import pytest

from fcmae.run.threads import Threads, cores, thread_count
from tests.support.programs import run

LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("wanted", "environment", "count"),
    [
        ("auto", {}, cores()),
        ("auto", LAUNCHED, cores()),
        ("auto", TORCHRUN | {"LOCAL_WORLD_SIZE": "2"}, max(1, cores() // 2)),
        ("auto", {"LOCAL_WORLD_SIZE": "1000"}, 1),
        ("auto", LAUNCHED | {"OMP_NUM_THREADS": "3"}, 3),
        ("auto", {"OMP_NUM_THREADS": "1"}, 1),
        ("auto", {"OMP_NUM_THREADS": "4,2"}, 4),
        ("auto", {"OMP_NUM_THREADS": "many"}, cores()),
        (2, LAUNCHED, 2),
        (5, {"OMP_NUM_THREADS": "3"}, 5),
    ],
)
def test_the_number_of_threads(wanted: Threads, environment: dict[str, str], count: int) -> None:
    assert thread_count(wanted, environment) == count


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux alone has it")
def test_cores_are_those_of_the_process() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
    code += "from fcmae.run.threads import cores; print(cores())"
    assert run("-c", code).stdout == "1\n"
