"""Measure the speed of training steps and of the loader, against rivals.

    python scripts/benchmark.py step [--only KEY] [--json]
    python scripts/benchmark.py data [--only KEY] [--json]
    python scripts/benchmark.py save [--only KEY] [--json]
    python scripts/benchmark.py growth [--plot growth.png]

`step` prints ratios of times: medians of several runs in one process, with both sides in turn on
the same weights, images and masks. A step is forward, loss and backward, without the optimiser.
`data` prints ratios of the loader's images/s, on one core.
`save` times steps with and without a checkpoint.
`growth` prints the time of a step against ratio, image size and batch.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fcmae.run.config import run_program
from fcmae.run.ranges import Count, WorkersFrom1, checked
from fcmae.run.terminal import beside, say
from fcmae.run.waiting import waiting


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The flags of the benchmark."""

    what: Annotated[Literal["step", "data", "save", "growth"], tyro.conf.Positional]
    """What to measure. step, data, save: ratios against rivals. growth: time of a step against
    ratio, image size and batch."""
    only: str = ""
    """Measure one key of `step`, `data` or `save` alone."""
    threads: WorkersFrom1 = 2
    """Threads of PyTorch; `data` is measured with one."""
    runs: Count = 9
    """Number of timed runs of each side, after one that warms up."""
    json: bool = False
    """Print one JSON object as the last line."""
    plot: Path | None = None
    """PNG file for the curves of `growth`."""


def main(argv: Sequence[str]) -> None:
    """Measure, and print the results."""
    args = checked(tyro.cli(Benchmark, args=argv, description=__doc__))
    with waiting("importing PyTorch"):
        import torch  # it takes seconds, and a help text needs none

        from scripts.bench.comparison import compare
        from scripts.bench.growth import draw, growth

    threads = 1 if args.what == "data" else args.threads
    torch.set_num_threads(threads)
    if args.what == "growth":
        curves = growth(args.runs, threads)
        if args.plot is not None:
            with beside(args.plot, "the table"):
                draw(curves, args.plot)
        result: dict[str, Any] = curves
    else:
        result = compare(args.what, args.only, runs=args.runs, threads=threads)
    if args.json:
        say(json.dumps(result))


if __name__ == "__main__":
    run_program(main)
