"""Measure the speed of training steps and of the loader, against rivals.

    fcmae benchmark step [--only KEY] [--json]
    fcmae benchmark data [--only KEY] [--json]
    fcmae benchmark save [--only KEY] [--json]
    fcmae benchmark growth [--plot growth.png]
    fcmae benchmark gpu [--only PART] [--profile] [--limit 240] [--dry] [--json]

`step` prints ratios of times: medians of several runs in one process, with both sides in turn on
the same weights, images and masks. A step is forward, loss and backward, without the optimiser.
`data` prints ratios of the loader's images/s, on one core.
`save` times steps with and without a checkpoint.
`growth` prints the time of a step against ratio, image size and batch.
`gpu` prints, of one GPU, ratios of steps and layers in bf16, eager or compiled, whichever is faster
for a side, and where the time of a step goes. What fails is named and passed over.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fcmae.run.program import run_program
from fcmae.run.ranges import Count, Seconds, WorkersFrom1, checked
from fcmae.run.terminal import beside, say
from fcmae.run.waiting import waiting


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The flags of the benchmark."""

    what: Annotated[Literal["step", "data", "save", "growth", "gpu"], tyro.conf.Positional]
    """What to measure. step, data, save: ratios against rivals. growth: time of a step against
    ratio, image size and batch. gpu: ratios against rivals and floors on one GPU."""
    only: str = ""
    """Measure one key of `step`, `data` or `save` alone; of `gpu`, the keys with one of
    these parts, between commas, in their names."""
    threads: WorkersFrom1 = 2
    """Threads of PyTorch; `data` is measured with one."""
    runs: Count = 9
    """Number of timed runs of each side, after one that warms up."""
    json: bool = False
    """Print one JSON object as the last line."""
    plot: Path | None = None
    """PNG file for the curves of `growth`."""
    profile: bool = False
    """For `gpu`: print what fills a step of each size, compiled and eager, with the optimiser: the
    25 kernels that take longest, sums by kind, launches, and the share in which the device is
    busy."""
    scope: Literal["block", "stage", "model"] = "block"
    """For `gpu`: what is compiled, each block, as in training, each stage, or the whole model."""
    limit: Seconds = 240.0
    """For `gpu`: seconds after which nothing new begins."""
    patience: Seconds = 120.0
    """For `gpu`: seconds that one model may take to compile."""
    jobs: WorkersFrom1 = 1
    """For `gpu`: processes that compile at a time before models are timed. More of them need as
    many cores, and 60 GB of the device's memory."""
    cache: Path | None = None
    """For `gpu`: folder of compiled code, for later runs. None takes one that is removed."""
    dry: bool = False
    """For `gpu`: run all of it on the CPU, at toy sizes, which shows that it works and measures
    nothing."""


def main(argv: Sequence[str]) -> None:
    """Measure, and print the results."""
    args = checked(tyro.cli(Benchmark, args=argv, description=__doc__))
    if args.what == "gpu":
        result = on_gpu(args)
        if args.json:
            say(json.dumps(result))
        return
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


def on_gpu(args: Benchmark) -> dict[str, Any]:
    """Measure on the GPU.

    Raises:
        ValueError: there is none; or no key has `only` in its name.
    """
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) if args.cache is None else args.cache
        cache.mkdir(parents=True, exist_ok=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
        # cuBLAS reads it when it begins, and deterministic steps need it; Hopper's own is the same
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        with waiting("importing PyTorch"):
            import torch

            from scripts.bench.gpu import measure
            from scripts.bench.lab import Lab
        if not (args.dry or torch.cuda.is_available()):
            raise ValueError("gpu needs a GPU that CUDA sees; --dry runs it on a CPU")
        lab = Lab(
            dry=args.dry,
            runs=args.runs,
            scope=args.scope,
            limit=args.limit,
            patience=args.patience,
        )
        return measure(lab, only=args.only, cache=cache, profile=args.profile, jobs=args.jobs)


if __name__ == "__main__":
    run_program(main)
