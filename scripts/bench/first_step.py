"""How long the first, compiled step of a new process takes: cold, and with a cache.

    python -m scripts.bench.first_step SIZE [--dry] [--scope blocks|model]

It prints the seconds from the first step's begin to its end. Imports are not in it.
"""

import os
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

from fcmae.run.terminal import say

ROOT = Path(__file__).parents[2]


def first_step(size: str, cache: Path, *, dry: bool, scope: str, patience: float) -> float:
    """Measure the first step in a process of its own.

    Args:
        size: of the model.
        cache: the folder of compiled code; cold if it is empty.
        dry: see `scripts.bench.lab.Lab`.
        scope: likewise.
        patience: seconds after which the process is ended.

    Raises:
        TimeoutError: it has taken longer.
        RuntimeError: it has failed.
    """
    words = [sys.executable, "-m", "scripts.bench.first_step", size, "--scope", scope]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache), "PYTHONPATH": paths}
    try:
        done = subprocess.run(
            [*words, *(["--dry"] if dry else [])],
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


def main() -> None:
    """Take one step, and print its seconds."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("size")
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--scope", default="blocks")
    args = parser.parse_args()
    from scripts.bench.lab import OURS, Lab

    lab = Lab(dry=args.dry, runs=1, scope=args.scope, limit=600, patience=600)
    say(lab.time(OURS, args.size, "compiled").first_s)


if __name__ == "__main__":
    main()
