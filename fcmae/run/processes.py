"""Starting a group of processes, and saying which of them was lost when it breaks.

A process that is killed, or whose machine goes, says nothing; the others see a connection that is
closed, or nothing until a time-out, and the address of a socket. The store in which the group
meets knows more: who stops writes why, and who has not written is the one that was lost.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Thread

from torch import distributed as dist
from torch.distributed import DistError, PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

WHO = {"RANK": "0", "WORLD_SIZE": "1"}  # set by launchers; without one, this process is alone
PATIENCE = 5.0  # seconds in which those that still live see the failure and write


class Processes:
    """The processes that a launcher started: `WORLD_SIZE` of them in the environment, or one.

    Args:
        timeout: seconds after which a collective operation gives up on a process.

    Raises:
        ConnectionError: they do not find each other.
    """

    def __init__(self, timeout: float) -> None:
        self.rank, self.world = (int(os.environ.get(k, d)) for k, d in WHO.items())
        self.store: Store | None = None
        if self.world > 1:
            limit = timedelta(seconds=timeout)
            try:
                self.store, self.rank, self.world = next(rendezvous("env://", timeout=limit))
                dist.init_process_group(
                    store=self.store, rank=self.rank, world_size=self.world, timeout=limit
                )
            except RuntimeError as error:
                place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
                why = str(error).strip().partition("\n")[0]
                raise ConnectionError(
                    f"rank {self.rank}: the {self.world} processes did not meet at {place} ({why});"
                    " start all of them, check that each host reaches the others there and through"
                    f" GLOO_SOCKET_IFNAME, or raise run.timeout={timeout:g}"
                ) from error
            self.store = PrefixStore("stopped", self.store)
            self.store.set_timeout(timedelta(seconds=PATIENCE))

    def check(self, seen: int, device: object) -> None:
        """Raise ValueError unless accelerate, on `device`, sees as many processes."""
        if seen != self.world:
            raise ValueError(
                f"{self.world} processes were launched but accelerate sees {seen} on {device}:"
                " launch one, or set ACCELERATE_USE_CPU=1"
            )

    @contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """Tell the others what stops this process; where they stop it, raise ConnectionError.

        Its message names the process that was lost, or that stopped first and why.
        """
        try:
            yield
        except Exception as error:
            if self.store is None:
                raise
            why = " ".join(f"{type(error).__name__}: {error}".split())
            cause = self._cause(self.store, why, ask=_of_group(error))
            if cause is None:
                raise
            raise ConnectionError(cause) from error

    def _cause(self, store: Store, why: str, *, ask: bool) -> str | None:
        """What stopped the others, None if this process was the first or does not ask.

        A thread talks to the store: where the link went silently, TCPStore waits for the answer to
        a write without any time-out, and until TCP gives up after a quarter of an hour.
        """
        told: list[str | None] = []

        def talk() -> None:
            with suppress(DistError):
                told.append(self._told(store, why, ask=ask))

        thread = Thread(target=talk, name="naming", daemon=True)
        thread.start()
        thread.join(PATIENCE + 1)
        if told:
            return told[0]
        return self._gone("rank 0", ", where the processes meet,") if ask else None

    def _told(self, store: Store, why: str, *, ask: bool) -> str | None:
        place = store.add("count", 1)
        store.set(f"{self.rank}", f"{place} {why}")
        if not ask:
            return None
        silent = [str(rank) for rank in range(self.world)]
        until = time.monotonic() + PATIENCE
        while silent and time.monotonic() < until:
            silent = [rank for rank in silent if not store.check([rank])]
            time.sleep(0.05)
        if silent:
            return self._gone(f"rank{'s' * (len(silent) > 1)} {', '.join(silent)}")
        stops = [store.get(str(rank)).decode() for rank in range(self.world)]
        first = next(rank for rank, stop in enumerate(stops) if stop.startswith("1 "))
        return None if first == self.rank else f"rank {first} stopped: {stops[first][2:]}"

    def _gone(self, ranks: str, which: str = "") -> str:
        lost = f"{ranks} of {self.world}{which} died or cannot be reached"
        return f"{lost}; restart the same command to go on"


def _of_group(error: Exception) -> bool:
    """Whether a collective operation failed; a lack of memory, say, is a RuntimeError as well."""
    gloo = isinstance(error, RuntimeError) and "gloo" in str(error)  # its source file
    return gloo or isinstance(error, DistError)
