"""One writer of a run: a lock on its directory, which rank 0 holds until its process ends.

The kernel frees the lock with the process, however that ends. The locked file says who holds it; a
file that nobody locks means nothing.
"""

import fcntl
import io
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from fcmae.run.files import writing
from fcmae.run.processes import Processes
from fcmae.run.terminal import say

LOCK = "run.lock"
STOPPING = "stopping"
HOLDER = re.compile(r"(\d+) on [\w.:-]+ since [\d :+-]+")
HELD: dict[Path, io.FileIO] = {}  # locked files of this process, which has but one set of signals


def disown() -> None:
    """Close the locked files in a forked process: data workers may outlive their parent."""
    for file in HELD.values():
        file.close()
    HELD.clear()


os.register_at_fork(after_in_child=disown)


@contextmanager
def sole_writer(run: Path, processes: Processes, patience: float) -> Iterator[None]:
    """Be the only group of processes that writes a run; every process has to enter the block.

    The lock is kept until the process ends where an error ends the block, since a checkpoint may
    still be being written then. If nothing was written, the directory is removed again.

    Args:
        run: the directory of the run, which is made.
        processes: of this group, whose rank 0 holds the lock.
        patience: seconds to wait for a process that was told to stop, and is saving the run.

    Raises:
        BlockingIOError: another process writes the run; the message names it.
        OSError: the directory cannot be made, or the lock in it not be opened.
    """
    made = not run.exists()
    refused: OSError | None = None
    if processes.rank == 0:
        try:
            acquire(run, patience)
        except OSError as error:
            refused = error
    processes.stop_together(refused)
    orderly = False
    try:
        yield
        orderly = True
    except SystemExit:  # a signal ended the session, which has saved
        orderly = True
        raise
    finally:
        if orderly or not any(path.name != LOCK for path in run.glob("*")):
            release(run, made)
        else:
            say_stopping()


def acquire(run: Path, patience: float) -> None:
    """Take the lock of a run, and write into it who has it.

    Where there are no locks a line says so, and nothing is held.

    Args:
        run: the directory of the run, which is made.
        patience: seconds to wait for a process that was told to stop.

    Raises:
        BlockingIOError: another process has the lock.
        OSError: the directory cannot be made, or the file not be opened.
    """
    path = run / LOCK
    until = time.monotonic() + patience
    told = False
    while True:
        try:
            with writing(path):
                run.mkdir(parents=True, exist_ok=True)
                file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        except OSError:
            if run.is_dir() and not os.access(run, os.W_OK):
                return  # what would write there says so
            raise
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # EACCES is what some file systems say
            holder, stopping = read_holder(file)
            file.close()
            use = f"{run} is in use by {holder}"
            if not stopping or time.monotonic() > until:
                raise BlockingIOError(
                    f"{use}: wait for its end, end it, or name another --run.dir (in fine-tuning,"
                    " --out)"
                ) from None
            if not told:
                say(f"{use}, which is stopping: waiting up to {patience:g} s", flush=True)
            told = True
            time.sleep(0.2)
        except OSError as error:
            file.close()
            path.unlink(missing_ok=True)
            say(f"{run} is on a disk without locks ({error}): only start one run in it")
            return
        else:
            if still_at(path, file):
                break
            file.close()  # its holder removed it between
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    with suppress(OSError):  # the disk is full, and the lock holds without words
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()} since {since}\n".encode())
    HELD[path] = file


def read_holder(file: io.FileIO) -> tuple[str, bool]:
    """Read who holds the lock, as `PID on HOST since TIME`, and whether it is stopping."""
    first, _, rest = file.read(999).decode(errors="replace").partition("\n")
    return first if HOLDER.fullmatch(first) else "another process", rest.startswith(STOPPING)


def still_at(path: Path, file: io.FileIO) -> bool:
    """Whether an open file is the one that `path` names."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def say_stopping() -> None:
    """Tell those who want a lock of this process that it is about to end."""
    for path in HELD:
        with suppress(OSError), path.open("r+") as file:  # never a new file
            file.seek(0, os.SEEK_END)
            print(STOPPING, file=file)


def release(run: Path, made: bool) -> None:
    """Give up the lock of a run, if it is held, and remove its file.

    Args:
        run: the directory of the run.
        made: remove the directory, too, if it is empty.
    """
    path = run / LOCK
    file = HELD.pop(path, None)
    if file is None:
        return
    with suppress(OSError):
        path.unlink()
        if made:
            run.rmdir()
    file.close()


def writer_of(run: Path) -> str | None:
    """Who writes a run now, as `PID on HOST since TIME`; None if nobody does.

    The lock itself is left alone, since a run that starts just then would find it taken. A process
    of this machine has to live; one of another machine is believed.
    """
    try:
        with io.FileIO(run / LOCK) as file:
            holder, _ = read_holder(file)
    except OSError:
        return None
    named = HOLDER.fullmatch(holder)
    if named is None:
        return None
    try:
        if f" on {socket.gethostname()} " in holder:
            os.kill(int(named[1]), 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass  # it lives, and is another user's
    return holder
