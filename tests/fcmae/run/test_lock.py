"""A run has one writer: whoever comes second says so in a line, and touches nothing."""

import errno
import fcntl
import os
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest

from fcmae.run.lock import LOCK, acquire, release, sole_writer
from fcmae.run.processes import Processes
from tests.support.programs import lines_of, run, start, wait_for

HOLDER = rf"{os.getpid()} on {re.escape(socket.gethostname())} since 20\d\d-[\d :+-]+: wait for"


def writer(path: Path, patience: float = 0.0) -> AbstractContextManager[None]:
    return sole_writer(path, Processes(10.0), patience)


def refusal(path: Path) -> str:
    with pytest.raises(BlockingIOError) as caught, writer(path):
        pass
    return str(caught.value)


def test_the_second_writer_is_told_who_the_first_is_and_touches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "a"
    with writer(path):
        before = (path / LOCK).read_bytes()
        assert re.search(f"{path} is in use by {HOLDER}", refusal(path))
        assert "end it, or name another --run.dir (in fine-tuning, --out)" in refusal(path)
        assert (path / LOCK).read_bytes() == before
        (path / "config.yaml").touch()
    assert [file.name for file in path.iterdir()] == ["config.yaml"]
    with writer(path):
        pass


def test_a_start_that_fails_before_it_writes_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("there", "new"):
        with pytest.raises(ValueError, match="other flags"), writer(tmp_path / name):
            raise ValueError("other flags")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def fail_in(path: Path) -> None:
    """A run of this process that an error ends after it has written a file."""
    with suppress(ValueError), writer(path):
        (path / "config.yaml").touch()
        raise ValueError("the loss is not finite")


def test_an_error_keeps_the_lock_for_what_is_still_being_written(tmp_path: Path) -> None:
    fail_in(tmp_path)
    assert "is in use by" in refusal(tmp_path)  # by this process


def test_a_stopped_writer_is_waited_for_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_in(tmp_path)
    with ThreadPoolExecutor(1) as thread:
        next_one = thread.submit(acquire, tmp_path, 60.0)
        time.sleep(0.5)
        assert not next_one.done()
        release(tmp_path, made=False)  # as the end of the process would
        next_one.result(10)
    assert "which is stopping: waiting up to 60 s" in capsys.readouterr().out
    began = time.monotonic()
    with pytest.raises(BlockingIOError, match=f"in use by {HOLDER}"):
        acquire(tmp_path, 60.0)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("content", [b"", b"\x1b[2Jall is well\n", b"\xff\0" * 9999])
def test_a_lock_with_other_words_in_it_is_a_lock(tmp_path: Path, content: bytes) -> None:
    with writer(tmp_path):
        (tmp_path / LOCK).write_bytes(content)
        assert "is in use by another process: wait" in refusal(tmp_path)
    (tmp_path / LOCK).write_bytes(content)  # of a process that was killed
    with writer(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_said_to_be_one(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)  # no such disk is at hand
    with writer(tmp_path / "run"):
        (tmp_path / "run" / "config.yaml").touch()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path / 'run'} is on a disk without locks (")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


WITH_A_WORKER = """
import os, sys, time
from pathlib import Path
from fcmae.run.lock import acquire
run = Path(sys.argv[1])
acquire(run, 0)
if os.fork() == 0:
    os.setsid()
    (run / "worker").write_text(str(os.getpid()))
time.sleep(60)
"""


def test_a_kill_frees_the_lock_though_workers_live_on(tmp_path: Path) -> None:
    program = start("-c", WITH_A_WORKER, tmp_path)
    wait_for(
        lambda: (tmp_path / "worker").exists() and (tmp_path / LOCK).read_text() != "", program
    )
    assert f"is in use by {program.pid} on " in refusal(tmp_path)
    os.kill(program.pid, signal.SIGKILL)
    program.wait()
    worker = int((tmp_path / "worker").read_text())
    os.kill(worker, 0)  # it lives
    try:
        with writer(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


RANK = """
import sys
from pathlib import Path
from fcmae.run.program import run_program
from fcmae.run.lock import sole_writer
from fcmae.run.processes import Processes
def main(argv):
    processes = Processes(20)
    with processes.naming_the_lost(), sole_writer(Path(argv[0]), processes, 10):
        print("began")
run_program(main)
"""


@pytest.mark.dist
def test_every_rank_is_told(tmp_path: Path) -> None:
    with writer(tmp_path / "run"):
        done = run("-c", RANK, tmp_path / "run", world=2)
    assert done.returncode == 1
    assert not done.stdout
    one, other = done.stderr.splitlines()
    assert one == other
    assert re.search(f"^error: {tmp_path / 'run'} is in use by {HOLDER}", one)
    done = run("-c", RANK, tmp_path / "run", world=2)
    assert (done.returncode, done.stdout) == (0, "began\nbegan\n"), done.stderr
    assert not list(tmp_path.iterdir())


FINE_TUNING = ("--weights", "none", "--data.train", "x", "--data.test", "x", "--out")


@pytest.mark.parametrize(
    "words",
    [
        ("pretrain.py", "scripts/recipes/demo.yaml", "--run.dir"),
        ("-m", "finetune.train", *FINE_TUNING),
        ("-m", "finetune.segment", *FINE_TUNING),
        ("-m", "finetune.few_shot", *FINE_TUNING),
    ],
)
def test_every_program_that_writes_a_run_takes_its_lock(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "run"
    with writer(path):
        suffix = "" if "pretrain.py" in words else ".json"
        done = run(*words, f"{path}{suffix}")
        assert done.returncode == 1
        (line,) = lines_of(done.stderr)
        assert re.search(f"^error: {path} is in use by {HOLDER}", line)
        assert [file.name for file in path.iterdir()] == [LOCK]
