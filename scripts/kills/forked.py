"""The processes of a start of pretrain.py, forked from an interpreter that has imported all.

A start is killed within seconds, and imports alone would take five. The fork server of
`multiprocessing` imports once; what it forks has a number and a process group of its own.
"""

import atexit
import faulthandler
import multiprocessing
import os
import random
import runpy
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil  # comes with accelerate

ROOT = Path(__file__).parents[2]
IMPORTED = [
    *("torchvision.transforms.v2", "numba", "simplejpeg", "matplotlib.figure", "rich.live"),
    *("data.pipeline", "data.shards.reading", "fcmae.run.session", "finetune.training.start"),
    *("finetune.training.batches", "finetune.training.watch"),
]
STATUS = threading.Lock()
"""Held where a status is read: `multiprocessing` reads those of all children whenever it starts
one, and of two threads that read the same one, the second is told 255."""
VICTIMS = ("all", "all", "all", "process", "worker")  # of a start: all, a rank, or a worker


def server() -> ForkServerContext:
    """The fork server of this process, whose forks have one thread each."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(IMPORTED)
    return forking


def become(words: list[str], env: Mapping[str, str], output: Path) -> None:
    """In a forked process: do what `python *words` does."""
    os.setpgid(0, 0)
    os.chdir(ROOT)
    os.environ.update(env)
    for number in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    faulthandler.enable(file=2)  # where a process breaks that nobody kills
    multiprocessing.set_start_method(None, force=True)  # the default, as elsewhere
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


class Start:
    """One start of a run: one process, or several that are one group, as torchrun starts them.

    Args:
        forking: the fork server.
        words: the command line behind `python`.
        world: the number of processes.
        env: environment variables beside those of this process.
        output: the file that everything printed is appended to.
    """

    def __init__(
        self,
        forking: ForkServerContext,
        words: Sequence[str],
        world: int,
        env: Mapping[str, str],
        output: Path,
    ) -> None:
        self.began = time.time()
        places = [{}] if world == 1 else ranks(world)
        self.processes = [
            forking.Process(target=become, args=([*words], {**env, **place}, output))
            for place in places
        ]
        for process in self.processes:
            with STATUS:
                process.start()
        atexit.register(self.kill)

    @property
    def alive(self) -> bool:
        """Whether all of its processes run."""
        return all(status(process) is None for process in self.processes)

    def wait_for(self, happened: Callable[[], bool]) -> None:
        """Wait until something has happened, or a process has ended."""
        while self.alive and not happened():
            time.sleep(0.001)

    def ended(self) -> int:
        """Wait for all of its processes to end: 0, or the first exit status that is another."""
        for process in self.processes:
            wait([process.sentinel])
        atexit.unregister(self.kill)
        return next(filter(None, map(status, self.processes)), 0)

    def strike(self, rng: random.Random) -> str:
        """Kill all of its processes, or first one of them, and say which.

        Where it was one, the others get up to two seconds to find out, as a launcher gives them.

        Args:
            rng: what it is drawn from.
        """
        victim = rng.choice(VICTIMS)
        rank = rng.randrange(len(self.processes))
        main = self.processes[rank].pid
        assert main is not None
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if victim == "worker":
                workers = psutil.Process(main).children()
                victim = "worker" if workers else "process"
                main = rng.choice(workers).pid if workers else main
            if victim != "all":
                os.kill(main, signal.SIGKILL)
                time.sleep(rng.uniform(0, 2))
        self.kill()
        return "all processes" if victim == "all" else f"{victim} of rank {rank}"

    def kill(self) -> None:
        """Kill whatever is left of it, also when this program ends."""
        for process in self.processes:
            assert process.pid is not None
            with suppress(ProcessLookupError):  # data workers are in the group of their process
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()  # it may not have made its group yet
        self.ended()


def status(process: BaseProcess) -> int | None:
    """The exit status of a process, negative for a signal, or None while it runs."""
    with STATUS:
        return process.exitcode


def ranks(world: int) -> list[dict[str, str]]:
    """What tells each process of a group its place, as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    place |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    return [place | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
