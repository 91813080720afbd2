"""Compare a long run under random kills with an undisturbed one, bit for bit; see soak.sh."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fcmae.run.config import parse, run_program

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class SoakConfig:
    """Compare a run under random kills with an undisturbed one, bit for bit."""

    minutes: Annotated[float, tyro.conf.Positional] = 30.0
    """Length of the run under kills with all its restarts, estimated from a first short run."""
    kills: Annotated[int, tyro.conf.Positional] = 10
    """Number of SIGKILLs, at random moments."""
    dir: Path = Path("runs/soak")
    """Directory of the runs, which is emptied first."""
    seed: int = 0
    """Seed of the random moments."""


def command(run: Path, steps: int) -> list[str]:
    """Make the command of a demo run that writes and removes checkpoints all the time."""
    flags = ["--optim.steps", str(steps), "--run.save_every", "20", "--run.log_every", "1"]
    flags += ["--run.picture_every", "0", "--optim.batch_size", "32", "--optim.ema", "0.99"]
    return [
        sys.executable,
        "pretrain.py",
        "scripts/recipes/demo.yaml",
        "--run.dir",
        str(run),
        *flags,
    ]


def start(run: Path, steps: int) -> subprocess.Popen[bytes]:
    """Start a run in a new process group, so that a kill ends all its processes."""
    return subprocess.Popen(
        command(run, steps), cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a run.

    Raises:
        ValueError: the run failed.
    """
    if process.wait() != 0:
        raise ValueError(f"the run ended with status {process.returncode}")


def main(argv: Sequence[str]) -> None:
    """Time a short run, kill a long one again and again, and compare it with another.

    Raises:
        ValueError: a run failed, the time is too short for the kills, or the runs differ.
    """
    config = parse(SoakConfig, argv, description=str(SoakConfig.__doc__))
    # here: they bring torch, which the help text does without
    import torch
    from safetensors.torch import load_file

    from fcmae.run import checkpoint
    from fcmae.run.metrics import count_metrics, read_metrics

    shutil.rmtree(config.dir, ignore_errors=True)
    timed, killed, alone = (config.dir / name for name in ("timed", "killed", "alone"))

    began = time.monotonic()
    finish(start(timed, 40))
    lines = read_metrics(timed)
    step = 32 / sorted(line["images_per_s"] for line in lines)[len(lines) // 2]
    overhead = time.monotonic() - began - 40 * step
    # a kill costs a start, and half of what lies between two checkpoints
    steps = int((60 * config.minutes - (config.kills + 1) * (overhead + 10 * step)) / step)
    if steps < 20 * config.kills:
        raise ValueError(
            f"{config.minutes} minutes hold {steps} steps of {step:.2f} s, too few for"
            f" {config.kills} kills: take more minutes or fewer kills"
        )
    print(f"{steps} steps of {1000 * step:.0f} ms, {config.kills} kills; a start {overhead:.1f} s")

    rng = random.Random(config.seed)
    began = time.monotonic()
    undisturbed = start(alone, steps)
    targets = sorted(rng.sample(range(5, steps - 5), config.kills))
    for kill, target in enumerate(targets, 1):
        process = start(killed, steps)
        if kill % 3:  # somewhere in a step, a save or a removal
            while count_metrics(killed) < target:
                if process.poll() is not None:
                    raise ValueError(f"the run ended with status {process.returncode}")
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 3 * step))
        else:  # somewhere in a start
            time.sleep(rng.uniform(0, overhead))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        newest = checkpoint.latest(killed)
        at = f"step {count_metrics(killed)}, checkpoint {newest.name if newest else 'none'}"
        print(f"{time.monotonic() - began:.0f} s: kill {kill} at {at}", flush=True)
    finish(start(killed, steps))
    print(f"{time.monotonic() - began:.0f} s: the killed run has ended", flush=True)
    finish(undisturbed)
    print(f"{time.monotonic() - began:.0f} s: the other, too")

    losses = [
        [(line["step"], line["loss"]) for line in read_metrics(run)] for run in (killed, alone)
    ]
    if losses[0] != losses[1] or [at for at, _ in losses[0]] != list(range(1, steps + 1)):
        raise ValueError("the metrics differ, or a step is missing or twice there")
    for file in (checkpoint.MODEL, checkpoint.OPTIMIZER, checkpoint.EMA):
        ours, theirs = (load_file(run / f"step_{steps:07d}" / file) for run in (killed, alone))
        if ours.keys() != theirs.keys() or not all(torch.equal(ours[k], theirs[k]) for k in ours):
            raise ValueError(f"{file} differs")
    print(f"equal to the last bit: {steps} losses, weights, moments and averages")


if __name__ == "__main__":
    run_program(main)
