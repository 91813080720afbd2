"""The group of processes of a run, and which of them was lost when it breaks.

A process that is killed, or whose machine fails, cannot say so; the others only see a connection
that is closed or that times out. The store in which the group meets tells more: every process that
stops writes its reason there, and the one that has not written was lost.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Thread

import torch
from torch import distributed as dist
from torch.distributed import DistError, PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from fcmae.run.waiting import waiting

WHO = {"RANK": "0", "WORLD_SIZE": "1"}  # set by launchers; without one, this process is alone
PATIENCE = 5.0  # seconds in which the processes that still live see the failure and write


class Processes:
    """The processes that a launcher started: `WORLD_SIZE` of them in the environment, or one.

    Args:
        timeout: seconds after which a collective operation gives up on a process.

    Raises:
        ConnectionError: the processes do not find each other.
    """

    def __init__(self, timeout: float) -> None:
        self.rank, self.world = (int(os.environ.get(k, d)) for k, d in WHO.items())
        self.store: Store | None = None
        if self.world > 1:
            limit = timedelta(seconds=timeout)
            try:
                with waiting(f"waiting for the other {self.world - 1} processes"):
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
        """Compare the number of processes with the number that accelerate sees.

        Args:
            seen: the number that accelerate sees.
            device: the device that accelerate chose, for the error.

        Raises:
            ValueError: the numbers differ.
        """
        if seen != self.world:
            raise ValueError(
                f"{self.world} processes were launched but accelerate sees {seen} on {device}:"
                " launch one, or set ACCELERATE_USE_CPU=1"
            )

    def stop_together(self, error: Exception | None) -> None:
        """Raise the error that rank 0 has, if any, on every process; each of them has to call it.

        Args:
            error: of this process; only that of rank 0 counts.

        Raises:
            Exception: the error of rank 0.
        """
        errors = [error]
        if self.world > 1:
            dist.broadcast_object_list(errors, src=0, device=torch.device("cpu"))
        if errors[0] is not None:
            self.store = None  # nobody has to ask whom it lost
            raise errors[0]

    @contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """Run a block, and tell the other processes which error of it stops this one.

        Raises:
            ConnectionError: another process stopped this one; the message names the process that
                was lost, or the one that stopped first and its error.
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
        """Find what stopped the group; None if this process was the first or does not ask.

        A thread talks to the store: over a broken link, TCPStore waits for the answer to a write
        without a time-out of its own, until TCP gives up after a quarter of an hour.
        """
        answers: list[str | None] = []

        def talk() -> None:
            with suppress(DistError):
                answers.append(self._answer(store, why, ask=ask))

        thread = Thread(target=talk, name="naming", daemon=True)
        thread.start()
        thread.join(PATIENCE + 1)
        if answers:
            return answers[0]
        return self._gone("rank 0", ", where the processes meet,") if ask else None

    def _answer(self, store: Store, why: str, *, ask: bool) -> str | None:
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
    """Whether an error is that of a collective operation."""
    # as a lack of memory is a RuntimeError, too, the text has to name a source file of gloo
    gloo = isinstance(error, RuntimeError) and "gloo" in str(error)
    return gloo or isinstance(error, DistError)
