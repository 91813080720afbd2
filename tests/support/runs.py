"""Short and small runs of pretrain.py, and reading what they left."""

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from fcmae.run import checkpoint
from fcmae.run.metrics import count_metrics, read_metrics
from tests.support.programs import Program, kill, run, start, wait_for

RECIPE = "scripts/recipes/demo.yaml"
SHORT = [
    *("--optim.batch_size", "8", "--optim.steps", "6", "--data.workers", "1"),
    *("--run.log_every", "1", "--run.save_every", "2", "--run.picture_every", "3"),
    *("--model.decoder_dim", "32", "--watch.images", "8"),
]
# for runs of whose numbers nothing is shown, which takes a third of the time
UNSEEN = ("--run.picture_every", "0", "--watch.images", "0")


def command(directory: Path, *flags: str) -> list[str]:
    """The command line of a short run, behind `python`; `flags` win over its defaults."""
    return ["pretrain.py", RECIPE, "--run.dir", str(directory), *SHORT, *flags]


def pretrain(
    directory: Path, *flags: str, world: int = 1, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to the end, whatever it is, in `world` processes."""
    return run(*command(directory, *flags), world=world, env=env)


def start_pretraining(directory: Path, *flags: str, launcher: tuple[str, ...] = ()) -> Program:
    """Start a run, to be signalled and killed."""
    return start(*launcher, *command(directory, *flags))


def kill_and_resume(directory: Path, *flags: str, when: Callable[[], bool]) -> None:
    """Kill a run as soon as `when` is true, and start it again, which has to go on and end well."""
    process = start_pretraining(directory, *flags)
    wait_for(when, process)
    kill(process)
    done = pretrain(directory, *flags)
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stdout


def logged(directory: Path, steps: int) -> Callable[[], bool]:
    """Whether that many lines of metrics have been written."""
    return lambda: count_metrics(directory) >= steps


def losses(directory: Path) -> list[tuple[int, float]]:
    """Step and loss of each line."""
    return [(line["step"], line["loss"]) for line in read_metrics(directory)]


def newest(directory: Path) -> Path:
    """The newest checkpoint, which there has to be."""
    step = checkpoint.latest(directory)
    assert step is not None
    return step


def assert_same_bits(one: Path, other: Path) -> None:
    """Equal steps, losses, weights and moments, to the last bit."""
    assert losses(one) == losses(other)
    assert newest(one).name == newest(other).name
    for file in sorted(newest(other).glob("*.safetensors")):
        ours, theirs = load_file(newest(one) / file.name), load_file(file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), file.name


def assert_close(run: Path, other: Path, *, rtol: float) -> None:
    """Equal steps, losses within `rtol`, and what training moved within two hundredths of it."""
    ours, theirs = losses(run), losses(other)
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    a, b = (torch.tensor([loss for _, loss in part]) for part in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=rtol, atol=0)
    ends = [load_file(newest(r) / checkpoint.OPTIMIZER) for r in (run, other)]
    names = [name for name in ends[0] if name.endswith(":exp_avg_sq")]
    x, y = (torch.cat([end[name].flatten().sqrt() for name in names]) for end in ends)
    assert (x - y).norm() < 0.02 * y.norm()
