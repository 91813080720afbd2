"""What a program is doing while one waits: a bar in a terminal, elsewhere lines now and then.

Work that takes under SHORT seconds says nothing that stays. All of it goes to standard error, from
the main process alone: neither from other ranks nor from data workers.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, TypeVar

from fcmae.run.display import DISPLAY, console_of, is_plain
from fcmae.run.terminal import visible

if TYPE_CHECKING:
    from rich.table import Table

T = TypeVar("T")
SHORT = 2.0  # seconds after which one is told what takes so long
EVERY = 20.0  # seconds between plain lines of the same work
DELAY = 0.3  # seconds before a bar appears
PACE = {True: 0.5, False: 0.1}  # seconds between looks: plain, in a terminal
WIDE = 60  # columns of a terminal that has room for a bar beside its text
BAR = 16  # columns of a bar


class Wait:
    """Work that takes a while.

    Args:
        doing: says what is done, in words such as "verifying shards".
        total: how much there is to do; None if the end is not known.
        unit: what is counted, such as "images"; "B" for bytes; empty if nothing is.
        done: how much was done before.
    """

    def __init__(self, doing: str, total: int | None = None, unit: str = "", done: int = 0) -> None:
        self.doing = visible(doing)
        self.total = total
        self.unit = unit
        self.done = done
        self.note = ""
        self.parts = 1  # of this name, which run at the same time
        self.began = time.monotonic()
        self.paced = self.began, done  # from when, and from how much, the pace is measured
        self.told = self.began + SHORT - EVERY  # when the last plain line was printed
        self.lock = Lock()

    def advance(self, count: int = 1) -> None:
        """Count what was done."""
        with self.lock:
            self.done += count

    def pace_from_here(self) -> None:
        """Let what took longer than the rest will, such as compiling, not count in the pace."""
        self.paced = time.monotonic(), self.done

    def join(self, total: int | None) -> None:
        """Take in a part that runs at the same time, such as another file that is fetched."""
        with self.lock:
            self.parts += 1
            self.total = None if self.total is None or total is None else self.total + total

    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self.began

    def amount(self) -> str:
        """How much of how much is done, such as `3/12 shards`; empty if nothing is counted."""
        if not self.unit:
            return ""
        scale, unit = (1e6, "MB") if self.unit == "B" else (1, self.unit)
        whole = "" if self.total is None else f"/{self.total / scale:.0f}"
        return f"{self.done / scale:.0f}{whole} {unit}"

    def state(self) -> str:
        """How far it is, how long it has taken, and how much longer it may take."""
        parts = [self.amount()]
        if self.total:
            parts.append(f"{min(self.done / self.total, 1):.0%}")
        parts.append(clock(self.seconds()))
        since, before = self.paced
        new = self.done - before
        if self.total is not None and new > 0:
            left = max(self.total - self.done, 0)
            parts.append(f"{clock((time.monotonic() - since) * left / new)} left")
        return ", ".join(part for part in (*parts, self.note) if part)

    def end(self) -> str:
        """What is said once it is done."""
        scale, unit = (1e6, "MB") if self.unit == "B" else (1, self.unit)
        amount = f"{self.done / scale:.0f} {unit}" if unit else "done"
        return f"{self.doing}: {amount} in {clock(self.seconds())}"


class Watch:
    """Shows all that this process waits for."""

    def __init__(self) -> None:
        self.waits: list[Wait] = []
        self.stop = Event()

    def begin(self, new: Wait) -> Wait:
        """Show a wait, or the one of its name that is shown already and takes it in."""
        with DISPLAY.lock:
            for wait in self.waits:
                if wait.doing == new.doing:
                    wait.join(new.total)
                    return wait
            self.waits.append(new)
            if len(self.waits) == 1:
                self.stop = Event()
                Thread(target=self.watch, args=(self.stop,), name="waiting", daemon=True).start()
            return new

    def end(self, wait: Wait, *, well: bool) -> None:
        """Show a wait no more; say that it is over, if it was long and has ended well."""
        with DISPLAY.lock:
            wait.parts -= 1
            if wait.parts or wait not in self.waits:  # not there after a fork
                return
            self.waits.remove(wait)
            if not self.waits:
                self.stop.set()
            if not self.waits or not is_plain(sys.stderr):
                self.show()
            if well and wait.seconds() >= SHORT:
                tell(wait.end())

    def watch(self, stop: Event) -> None:
        """Show what there is, again and again; runs in a thread."""
        while not stop.wait(PACE[is_plain(sys.stderr)]):
            with DISPLAY.lock:
                if not stop.is_set():
                    self.show()

    def show(self) -> None:
        """Draw the bars, or print the lines that are due."""
        if not is_plain(sys.stderr):
            shown = [wait for wait in self.waits if wait.seconds() >= DELAY]
            with suppress(OSError):
                DISPLAY.show(bars(shown) if shown else None)
            return
        for wait in self.waits:
            if time.monotonic() - wait.told >= EVERY:
                wait.told = time.monotonic()
                tell(f"{wait.doing}: {wait.state()}")


WATCH = Watch()
os.register_at_fork(after_in_child=WATCH.waits.clear)


def tell(line: str) -> None:
    """Print a line on standard error; where that cannot be written, the line is lost."""
    with suppress(OSError):
        DISPLAY.say(visible(line), sys.stderr, flush=True)


@contextmanager
def waiting(
    doing: str, total: int | None = None, unit: str = "", *, done: int = 0, shown: bool = True
) -> Iterator[Wait]:
    """Say what is done while the block runs, and how far it is, which `Wait.advance` counts.

    Args:
        doing: what is done, in words such as "verifying shards". Blocks of the same words that run
            at the same time are shown as one.
        total: how much there is to do; None if the end is not known.
        unit: what is counted, such as "images"; "B" for bytes; empty if nothing is.
        done: how much was done before.
        shown: whether this process is one that shows it.
    """
    new = Wait(doing, total, unit, done)
    if not shown or not speaks():
        yield new
        return
    wait = WATCH.begin(new)
    well = False
    try:
        yield wait
        well = True
    finally:
        WATCH.end(wait, well=well)


def counted(
    items: Iterable[T], doing: str, total: int | None = None, unit: str = "", *, shown: bool = True
) -> Iterator[T]:
    """Iterate over items, each of which counts one. The arguments are those of `waiting`."""
    with waiting(doing, total, unit, shown=shown) as wait:
        for item in items:
            yield item
            wait.advance()


def speaks() -> bool:
    """Whether this is the process of several that shows what is done."""
    first = os.environ.get("RANK", "0") == "0" and multiprocessing.parent_process() is None
    return first and sys.stderr is not None  # which is closed by some who start programs


def clock(seconds: float) -> str:
    """A duration as `MM:SS`, or `H:MM:SS`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def bars(waits: Iterable[Wait]) -> "Table":
    """A bar for each of these, with its words; a narrow terminal has room for the words alone."""
    from rich.progress_bar import ProgressBar
    from rich.table import Column, Table
    from rich.text import Text

    wide = console_of(sys.stderr).width >= WIDE
    grid = Table.grid(
        *([Column(no_wrap=True), Column(width=BAR)] if wide else [Column(overflow="fold")]),
        Column(overflow="fold"),
        padding=(0, 1),
    )
    for wait in waits:
        bar = ProgressBar(
            total=wait.total or None, completed=wait.done, width=BAR, pulse=not wait.total
        )
        words = Text(wait.doing)
        grid.add_row(*([words, bar] if wide else [words]), Text(wait.state()))
    return grid
