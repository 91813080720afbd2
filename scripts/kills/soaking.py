"""Runs of one mode under kills, each compared bit for bit with one that was left alone."""

import json
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from fcmae.run import checkpoint
from fcmae.run.metrics import read_metrics
from scripts.kills.forked import Start
from scripts.kills.moments import AIMS, KEEP, Seen, found, starts, wait

STEPS = 36  # of a run, which some twelve kills fall into
FLAGS = [
    *("--optim.steps", str(STEPS), "--optim.batch_size", "4", "--model.decoder_dim", "32"),
    *("--run.save_every", "3", "--run.keep", str(KEEP), "--run.log_every", "1"),
    *("--run.picture_every", "0"),
]
LOG = "kills.jsonl"
LINES = 60  # of what a start has printed that failed: those of all threads


@dataclass(frozen=True)
class Mode:
    """How a run is computed: flags, processes, environment, and data workers of each start."""

    flags: tuple[str, ...] = ()
    world: int = 1
    env: tuple[tuple[str, str], ...] = ()
    workers: tuple[int, ...] = (1,)


EMA = ("--optim.ema", "0.9")
SHARDED = (("ACCELERATE_USE_FSDP", "true"),)
MODES = {
    "one": Mode(),
    "two": Mode(EMA, world=2),
    "accumulation": Mode(("--optim.accumulate", "2")),
    "ema": Mode(EMA, workers=(2,)),
    "bf16": Mode(("--precision", "bf16", *EMA)),
    "fp16": Mode(("--precision", "fp16")),
    "fsdp2": Mode((*EMA, "--optim.accumulate", "2"), world=2, env=SHARDED),
    "workers": Mode(workers=(0, 1, 2, 3)),
}


@dataclass(frozen=True)
class Soak:
    """The runs of one mode, in a directory that a soak goes on in.

    Args:
        name: the mode.
        forking: the fork server.
        folder: the directory of the soak; `LOG` in it has a line for each kill.
        seed: of all moments and victims.
    """

    name: str
    forking: ForkServerContext
    folder: Path
    seed: int

    @property
    def run(self) -> Path:
        """The run that is killed."""
        return self.folder / self.name / "killed"

    @property
    def alone(self) -> Path:
        """The run that is left alone."""
        return self.folder / self.name / "alone"

    def begin(self, run: Path, rng: random.Random) -> Start:
        """Start a run, or go on with it."""
        mode = MODES[self.name]
        words = ["pretrain.py", "scripts/recipes/demo.yaml", "--run.dir", str(run), *FLAGS]
        words += [*mode.flags, "--data.workers", str(rng.choice(mode.workers))]
        return Start(self.forking, words, mode.world, dict(mode.env), self.output)

    @property
    def output(self) -> Path:
        """What all starts have printed."""
        return self.folder / self.name / "output.txt"

    def kills(self, number: int) -> Iterator[dict[str, Any]]:
        """Kill runs until this mode has had so many kills, and compare each run that ends.

        Args:
            number: of kills, those in the log of the soak included.

        Returns:
            For each kill its line of the log.

        Raises:
            ValueError: a start failed, or a run differs from the one that was left alone.
        """
        self.output.parent.mkdir(parents=True, exist_ok=True)
        done = sum(line["mode"] == self.name for line in read_log(self.folder))
        setup = self.finish(self.alone)
        while done < number:
            rng = random.Random(f"{self.seed} {self.name} {done}")
            before = Seen.of(self.run)
            aim = rng.choice(AIMS)
            start = self.begin(self.run, rng)
            wait(aim, self.run, before, start, setup, rng)
            victim = start.strike(rng) if start.alive else ""
            if start.ended() == 0:  # before the moment came
                self.compare()
                continue
            if not victim:
                raise self.failed(start)
            done += 1
            left = Seen.of(self.run)
            yield {
                "mode": self.name,
                "kill": done,
                "aim": aim,
                "found": found(self.run, before, start.began),
                "victim": victim,
                "steps": left.lines,
                "checkpoint": left.newest,
                "seconds": round(time.time() - start.began, 2),
            }
        self.finish(self.run)
        self.compare()

    def finish(self, run: Path) -> float:
        """Start a run and leave it alone until its end; the seconds that the start itself took.

        Raises:
            ValueError: the run failed.
        """
        before = starts(run)
        start = self.begin(run, random.Random(0))
        start.wait_for(lambda: starts(run) > before)
        setup = time.time() - start.began
        if start.ended():
            raise self.failed(start)
        return setup

    def failed(self, start: Start) -> ValueError:
        """Tell of a start that ended with an error though it was not killed."""
        last = "\n".join(self.output.read_text(errors="replace").splitlines()[-LINES:])
        return ValueError(
            f"a start of {self.run.parent} ended with status {start.ended()}: {self.output} says"
            f" why, last\n{last}"
        )

    def compare(self) -> None:
        """Compare the run that was killed with the one that was left alone, and remove the first.

        Raises:
            ValueError: they differ; both are kept.
        """
        compare(self.run, self.alone)
        shutil.rmtree(self.run)


def compare(run: Path, other: Path) -> None:
    """Compare two runs: each step once, losses, weights, moments and averages to the last bit.

    Raises:
        ValueError: they differ; the message says in what.
    """
    losses = [[(line["step"], line["loss"]) for line in read_metrics(r)] for r in (run, other)]
    if [step for step, _ in losses[0]] != list(range(1, STEPS + 1)):
        raise ValueError(f"{run}: a step is missing in the metrics, or twice there")
    if losses[0] != losses[1]:
        raise ValueError(f"{run}: the losses are not those of {other}")
    ours, theirs = (r / f"step_{STEPS:07d}" for r in (run, other))
    for file in sorted(theirs.glob("*.safetensors")):
        a, b = load_file(ours / file.name), load_file(file)
        if a.keys() != b.keys() or not all(torch.equal(a[name], b[name]) for name in a):
            raise ValueError(f"{ours / file.name} differs from {file}")
    if (ours / checkpoint.STATE).read_text() != (theirs / checkpoint.STATE).read_text():
        raise ValueError(f"{ours / checkpoint.STATE} differs from {theirs / checkpoint.STATE}")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The kills of a soak so far, one object for each, in the order in which they happened."""
    log = folder / LOG
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
