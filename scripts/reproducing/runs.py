"""Runs that are made once, one after another, also over many calls of the command.

What is kept of a finished run stands in the results, which are committed. Its weights stay in the
directory of runs while other runs need them, and are made again where they are missing.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fcmae.run.json_files import read_json
from fcmae.run.pieces import adding_seconds, attempt, processor_seconds, strip
from fcmae.run.terminal import say
from scripts.reproducing.results import Entry, Results, rounded

SECONDS = "seconds.json"
PROCESSOR_SECONDS = "processor_seconds.json"
Program = Callable[[str, Sequence[str]], object]


@dataclass(frozen=True, kw_only=True)
class Call:
    """A program and its arguments."""

    program: str
    """A command of fcmae, or one of `scripts.reproducing.programs`."""
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join([self.program, *self.words])


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a set."""

    name: str
    """Its name among the results of the set."""
    folder: Path
    """The directory of the set."""
    calls: Callable[[Results], Sequence[Call]]
    """What it does, given the results that there are."""
    makes: Path
    """The file that it ends with, which may be weights that other runs need."""
    keep: Callable[[], Mapping[str, Any]]
    """What is kept of it once it is finished."""
    estimate: float
    """Seconds that it takes on two cores, roughly."""
    stripped: bool = True
    """Whether its checkpoints go once it is finished; no run goes on from them then."""
    needs: tuple["Run", ...] = ()
    """Runs whose files it reads."""
    after: tuple["Run", ...] = ()
    """Runs whose results tell its calls."""


class Making:
    """Makes the runs of a set.

    Args:
        results: what is finished.
        program: runs a program with arguments.
    """

    def __init__(self, results: Results, program: Program) -> None:
        self.results = results
        self.program = program
        self.failed = list[str]()
        self.broken = set[str]()

    def all(self, runs: Sequence[Run]) -> None:
        """Make the runs that have no result; those that fail are named, and the others go on.

        Raises:
            OSError: the results cannot be written.
            SystemExit: a signal came; the run that was going on is saved.
        """
        left = [run for run in runs if run.name not in self.results]
        scale = pace(runs, self.results)
        hours = scale * sum(run.estimate for run in left) / 3600
        told = f"{len(left)} of {len(runs)} runs to make, about {hours:.1f} h on two cores"
        say(f"{self.results.path.stem}: {told}")
        for run in runs:
            before = len(self.failed)
            attempt(run.name, partial(self.make, run), self.failed)
            if len(self.failed) > before:
                self.broken.add(run.name)

    def make(self, run: Run) -> None:
        """Make a run, unless it has a result.

        Raises:
            ValueError: its result is that of another command, or a run that it needs has failed;
                or see the programs.
        """
        for other in (*run.after, *run.needs):
            if other.name in self.broken:
                raise ValueError(f"it needs {other.name}, which has failed")
        for other in run.after:
            self.make(other)
        if run.name in self.results:
            self.results.check(run.name, [str(call) for call in run.calls(self.results)])
            return
        for needed in run.needs:
            self.provide(needed)
        self.execute(run)

    def provide(self, run: Run) -> None:
        """See that the file that a run makes is there."""
        self.make(run)
        if not run.makes.exists():
            say(f"{run.makes} is not there: {run.name} is made again for it")
            for needed in run.needs:
                self.provide(needed)
            self.execute(run)

    def execute(self, run: Run) -> None:
        """Do what a run does, and add what is kept of it to the results."""
        calls = run.calls(self.results)
        say(f"{self.results.path.stem}: {run.name}")
        run.folder.mkdir(parents=True, exist_ok=True)
        with (
            adding_seconds(run.folder / SECONDS, run.name),
            adding_seconds(run.folder / PROCESSOR_SECONDS, run.name, processor_seconds),
        ):
            for call in calls:
                self.program(call.program, call.words)
        seconds, processors = (
            read_json(run.folder / name, dict)[run.name] for name in (SECONDS, PROCESSOR_SECONDS)
        )
        if run.stripped:
            strip(run.folder / run.name)
        self.results.add(
            run.name,
            Entry(
                commands=tuple(map(str, calls)),
                seconds=rounded(seconds),
                processor_seconds=rounded(processors),
                kept=rounded(dict(run.keep())),
            ),
        )


def pace(runs: Sequence[Run], results: Results) -> float:
    """How much longer than estimated the finished runs took; 1 where none is finished."""
    done = [run for run in runs if run.name in results]
    estimated = sum(run.estimate for run in done)
    return sum(results.entries[run.name].seconds for run in done) / estimated if estimated else 1.0


def with_needs(runs: Sequence[Run]) -> Iterator[Run]:
    """Runs, each once, and before each what it needs."""
    seen = set[str]()
    for run in runs:
        for one in (*with_needs((*run.after, *run.needs)), run):
            if one.name not in seen:
                seen.add(one.name)
                yield one
