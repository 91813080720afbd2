"""Programs as processes, each forked from an interpreter that has imported torch already.

An interpreter takes seconds to import what the programs need, and most runs here are over in less.
The fork server of `multiprocessing` imports it once. What it forks is a process like any other:
with a number, a process group, an environment and an exit status of its own, to be signalled and
killed. Only `sys.modules` is fuller than at the start of `python PROGRAM`.
"""

import atexit
import multiprocessing
import os
import pty
import re
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from itertools import count
from multiprocessing import forkserver
from multiprocessing import process as own_process
from multiprocessing.context import ForkServerContext
from pathlib import Path
from tempfile import mkdtemp
from unittest import mock

ROOT = Path(__file__).parents[2]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
NUMBERS = count()
WAIT = re.compile(r": .*\b\d\d:\d\d\b")  # with the time that it has taken
TERMINAL = ("CI", "COLUMNS", "LINES", "NO_COLOR", "TERM")  # what tells programs of a terminal


@cache
def _server() -> ForkServerContext:
    """The fork server of this process, which it ends with."""
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(["tests.support.preloaded"])
    with mock.patch.dict(os.environ, ONE_THREAD):  # read when torch is imported
        forkserver.ensure_running()
    return forking


@cache
def _outputs() -> Path:
    """A folder for what programs write, which goes with this process."""
    folder = Path(mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return folder


def _become(words: list[str], env: dict[str, str], cwd: Path, stdout: Path, stderr: Path) -> None:
    """In the forked process: do what `python *words` does."""
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for path, number in ((stdout, 1), (stderr, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    if os.isatty(2):  # the streams of the server take what they have for a file
        sys.stdout, sys.stderr = (os.fdopen(n, "w", 1, closefd=False) for n in (1, 2))
    multiprocessing.set_start_method(None, force=True)  # the default, as elsewhere
    own_process.__dict__["_parent_process"] = None  # as of one that a shell has started
    kind, *rest = words
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(kind).parent))
        runpy.run_path(kind, run_name="__main__")


class Program:
    """A running `python *words`, with what subprocess.Popen offers of which tests make use."""

    def __init__(
        self, words: tuple[object, ...], env: Mapping[str, str] | None, cwd: Path, merged: bool
    ) -> None:
        self.args = [str(word) for word in words]
        number = next(NUMBERS)
        self._out = _outputs() / f"{number}.out"
        self._err = self._out if merged else self._out.with_suffix(".err")
        for path in (self._out, self._err):
            path.touch()
        arguments = (self.args, environment(env), cwd, self._out, self._err)
        self._process = _server().Process(target=_become, args=arguments)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        atexit.register(self._end)

    def _end(self) -> None:
        if self.poll() is None:
            kill(self)

    def poll(self) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""
        return self._process.exitcode

    @property
    def returncode(self) -> int:
        status = self.poll()
        assert status is not None, "still running"
        return status

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; what it wrote to standard output and error, or all in the first."""
        self.wait(timeout)
        return self._out.read_text(), "" if self._err is self._out else self._err.read_text()

    def printed(self) -> str:
        """What it has written to standard output so far."""
        return self._out.read_text()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of a program: one thread, so that several processes are quick and sums are the same."""
    return os.environ | ONE_THREAD | dict(extra or {})


def start(*words: object, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Program:
    """Start `python *words`, in a process group of its own; its errors are in its output."""
    return Program(words, env, cwd, merged=True)


def start_ranks(
    world: int, *words: object, env: Mapping[str, str] | None = None, merged: bool = True
) -> list[Program]:
    """Start `python *words` once for each rank of a group of processes, as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    place |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    return [Program(words, dict(env or {}) | place | rank, ROOT, merged) for rank in ranks]


def lines_of(stderr: str) -> list[str]:
    """What a program printed beside lines on work that takes a while, which a busy machine has."""
    lines = stderr.splitlines()
    return [line for line in lines if line.startswith("error: ") or not WAIT.search(line)]


def run(
    *words: object, world: int = 1, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run `python *words` to its end, whatever it is; `world` processes of it that are one group.

    The output of several is that of rank 0, then that of rank 1, and so on; their status the first
    that is not 0.
    """
    if world > 1:
        programs = start_ranks(world, *words, env=env, merged=False)
    else:
        programs = [Program(words, env, cwd, merged=False)]
    told = [program.communicate(timeout=500) for program in programs]
    status = next((p.returncode for p in programs if p.returncode != 0), 0)
    outs, errors = zip(*told, strict=True)
    return subprocess.CompletedProcess(programs[0].args, status, "".join(outs), "".join(errors))


def on_terminal(
    *words: object,
    env: Mapping[str, str] | None = None,
    columns: int = 100,
    out: Path | None = None,
) -> tuple[int, str]:
    """Run `python *words` in a terminal of this width; its exit status, and all that came there.

    With `out`, that file is its standard output, and the terminal its standard error alone.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, columns))
    terminal = Path(os.ttyname(theirs))
    if out is not None:
        out.touch()
    usual = {name: value for name, value in environment(env).items() if name not in TERMINAL}
    settings = usual | {"TERM": "xterm-256color"} | dict(env or {})
    arguments = ([str(word) for word in words], settings, ROOT, out or terminal, terminal)
    process = _server().Process(target=_become, args=arguments)
    process.start()
    told = b""
    while process.is_alive() or select.select([ours], [], [], 0)[0]:
        if select.select([ours], [], [], 0.05)[0]:
            told += os.read(ours, 2**16)
    os.close(ours)
    os.close(theirs)
    assert process.exitcode is not None
    return process.exitcode, told.decode()


def torchrun(world: int) -> tuple[str, ...]:
    """The real launcher of `world` processes on this machine, for tests of what it does."""
    return ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world))


def wait_for(happened: Callable[[], bool], *programs: Program) -> None:
    """Wait until something has happened, for as long as the programs run."""
    deadline = time.monotonic() + 240
    while not happened():
        for program in programs:
            assert program.poll() is None, program.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    """Process numbers of the direct children, in the order of their start."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sorted(map(int, found))


def kill(*programs: Program) -> None:
    """At once with all their processes: torchrun's have groups of their own and would live on."""
    for program in programs:
        for group in (*children(program.pid), program.pid):
            with suppress(ProcessLookupError):  # data workers are in the group of their process
                os.killpg(group, signal.SIGKILL)
    for program in programs:
        program.wait()
