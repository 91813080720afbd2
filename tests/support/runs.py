"""Starting pretrain.py as a process, short and small, and reading what it left."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from fcmae.run import checkpoint
from fcmae.run.metrics import read_metrics

ROOT = Path(__file__).parents[2]
RECIPE = "scripts/recipes/demo.yaml"
SHORT = [
    *("--optim.batch_size", "8", "--optim.steps", "6", "--data.workers", "1"),
    *("--run.log_every", "1", "--run.save_every", "2", "--run.picture_every", "3"),
    *("--model.decoder_dim", "32"),
]


def torchrun(world: int) -> tuple[str, ...]:
    """A launcher of `world` processes on this machine."""
    return ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world))


def command(run: Path, *flags: str, launcher: tuple[str, ...] = ()) -> list[str]:
    """The command line of a short run; `flags` win over its defaults."""
    start = [sys.executable, *launcher, "pretrain.py", RECIPE, "--run.dir", str(run)]
    return [*start, *SHORT, *flags]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of a run: one thread, so that several processes are quick and sums are the same."""
    return os.environ | {"OMP_NUM_THREADS": "1"} | dict(extra or {})


def pretrain(
    run: Path,
    *flags: str,
    launcher: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run to the end, whatever it is."""
    return subprocess.run(
        command(run, *flags, launcher=launcher),
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment(env),
        check=False,
    )


def start(
    run: Path,
    *flags: str,
    launcher: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start a run in a process group of its own, to be signalled and killed."""
    return subprocess.Popen(
        command(run, *flags, launcher=launcher),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(env),
        start_new_session=True,
    )


def losses(run: Path) -> list[tuple[int, float]]:
    """Step and loss of each line."""
    return [(line["step"], line["loss"]) for line in read_metrics(run)]


def newest(run: Path) -> Path:
    """The newest checkpoint, which there has to be."""
    step = checkpoint.latest(run)
    assert step is not None
    return step


def assert_same_bits(run: Path, other: Path) -> None:
    """Equal steps, losses, weights and moments, to the last bit."""
    assert losses(run) == losses(other)
    assert newest(run).name == newest(other).name
    for file in sorted(newest(other).glob("*.safetensors")):
        ours, theirs = load_file(newest(run) / file.name), load_file(file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), file.name
