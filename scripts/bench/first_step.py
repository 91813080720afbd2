"""The first, compiled step of a new process: how long it takes, and caches that it fills.

    python -m scripts.bench.first_step SIDE SIZE [--dry] [--scope block] [--deterministic]

It prints the seconds from the first step's begin to its end. Imports are not in it.
"""

import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from fcmae.run.compiling import GRANULARITY
from fcmae.run.program import run_program
from fcmae.run.terminal import say
from scripts.bench.lab import CUDNN, DENSE, MAE, OURS, SIZES, Lab, Size, deterministic, telling

ROOT = Path(__file__).parents[2]


def first_step(lab: Lab, side: str, size: Size, cache: Path, *flags: str) -> float:
    """Measure the first step of a side in a process of its own.

    Args:
        lab: the device, its scope and its patience.
        side: of the comparison.
        size: of the model.
        cache: the folder of compiled code; cold if it is empty.
        flags: of this module, beside those that `lab` has.

    Raises:
        TimeoutError: it takes too long.
        RuntimeError: it has failed.
    """
    words = [sys.executable, "-m", "scripts.bench.first_step", side, size, "--scope", lab.scope]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache), "PYTHONPATH": paths}
    env.pop("TRITON_CACHE_DIR", None)  # Inductor sets it to a folder of its own
    patience = min(lab.patience, max(lab.left, 1.0))
    try:
        done = subprocess.run(
            [*words, *flags, *(["--dry"] if lab.dry else [])],
            env=env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=patience,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"the first step takes more than {patience:.0f} s") from error
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    return float(done.stdout.split()[-1])


def fill(lab: Lab, cache: Path, jobs: int, steps: Iterable[tuple[str, ...]]) -> None:
    """Fill a cache by several processes, each of which compiles one side.

    Which of several kernels is fastest is forgotten again: it was measured on a device that several
    processes used.

    Args:
        lab: the device.
        cache: the folder of compiled code.
        jobs: the number of processes at a time.
        steps: side, size and flags of each.
    """

    def compile_one(step: tuple[str, ...]) -> None:
        side, size, *flags = step
        title = f"compiling {' '.join(step)}"
        with telling(title):
            spent = first_step(lab, side, size, cache, *flags)  # type: ignore[arg-type]
            say(f"  {title}: {spent:.0f} s, beside others", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(compile_one, steps))
    for choice in cache.rglob("*.best_config"):
        choice.unlink()


def main(argv: Sequence[str]) -> None:
    """Take one step, and print its seconds."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=(OURS, CUDNN, DENSE, MAE))
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--scope", default=GRANULARITY)
    parser.add_argument("--deterministic", action="store_true")
    args = parser.parse_args(argv)
    lab = Lab(dry=args.dry, runs=1, scope=args.scope, limit=600, patience=600)
    with deterministic() if args.deterministic else nullcontext():
        say(lab.time(args.side, args.size, "compiled").first_s)


if __name__ == "__main__":
    run_program(main)
