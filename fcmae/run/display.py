"""The lower edge of a terminal, where bars stand for what is being done, below the lines said.

Without a terminal, with TERM=dumb, which `--plain` sets, and in CI there are no bars.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

PLAIN = "--plain"  # a flag of every program
HELP = (  # below the help text of every program
    "",
    f"every program has {PLAIN}, too: plain lines in place of bars and drawn tables, as in a pipe,",
    "in CI and with TERM=dumb; NO_COLOR takes the colours away",
)
DUMB = ("dumb", "unknown")  # values of TERM


@runtime_checkable
class Stream(Protocol):
    """What is written to: standard output or error, or what stands for them."""

    def write(self, text: str, /) -> object:
        """Write a text."""
        ...

    def flush(self) -> object:
        """Write what waits in memory."""
        ...

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        ...


def without_plain(arguments: Sequence[str]) -> list[str]:
    """Take `--plain` out of the arguments of a program.

    Where it is there, this process and those that it starts print plain lines in place of bars.
    """
    if PLAIN in arguments:
        os.environ["TERM"] = DUMB[0]
    return [word for word in arguments if word != PLAIN]


def is_plain(stream: Stream) -> bool:
    """Whether a stream gets plain lines: it is no terminal, or a dumb one, or this is CI."""
    in_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    return in_ci or os.environ.get("TERM") in DUMB or not stream.isatty()


class Display:
    """The bars of this process on standard error.

    `lock` is held by whoever writes while there may be bars.
    """

    def __init__(self) -> None:
        self.lock = RLock()
        self.live: Live | None = None

    def show(self, bars: "RenderableType | None") -> None:
        """Draw bars in place of those that stand there; None takes them away."""
        with self.lock:
            if bars is None:
                self.close()
                return
            if self.live is None:
                from rich.live import Live

                console = console_of(sys.stderr)
                self.live = Live(
                    console=console, auto_refresh=False, transient=True, redirect_stdout=False
                )
                self.live.start()
                console.show_cursor(True)  # which a kill would leave hidden
            self.live.update(bars, refresh=True)

    def close(self) -> None:
        """Take the bars away."""
        with self.lock:
            if self.live is not None:
                self.live.stop()
                self.live = None

    @contextmanager
    def closed_at_end(self) -> Iterator[None]:
        """Take the bars away when the block ends, such as by an error, which is told then."""
        try:
            yield
        finally:
            self.close()

    def say(self, line: str, stream: Stream, *, flush: bool) -> None:
        """Print a line on a stream; on a terminal it stands above the bars."""
        with self.lock:
            if self.live is None or not stream.isatty():
                print(line, file=stream, flush=flush)
                return
            from rich.text import Text

            self.live.console.print(Text(line), soft_wrap=True)

    def forget(self) -> None:
        """Leave the bars to the process that this one was forked from."""
        if self.live is not None:
            sys.stderr = self.live.console.file  # in place of what prints above the bars
        self.__init__()


def console_of(stream: Stream) -> "Console":
    """Rich's console of a terminal, standard output or error, which colours nothing by guess."""
    from rich.console import Console

    error = stream is sys.stderr
    return Console(stderr=error, force_terminal=True, highlight=False, emoji=False, markup=False)


DISPLAY = Display()
os.register_at_fork(
    before=lambda: DISPLAY.lock.acquire(),
    after_in_parent=lambda: DISPLAY.lock.release(),
    after_in_child=lambda: DISPLAY.forget(),
)
