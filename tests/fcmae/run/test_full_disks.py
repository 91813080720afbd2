"""A run on a small disk that fills up at a bad moment: it loses nothing, and says what it keeps."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from data.bad_samples import BadSamples
from fcmae.run.learner import Learner
from fcmae.run.metrics import read_metrics
from fcmae.run.options import RunConfig
from fcmae.run.session import Session
from fcmae.run.starting import newest_checkpoint, resume
from tests.support.learners import assert_equal, learner_of, train
from tests.support.namespaces import run_after


@dataclass(frozen=True, kw_only=True)
class Config:
    """The config of a run of these tests."""

    run: RunConfig = field(default_factory=lambda: RunConfig(save_every=2, log_every=1, keep=1))


def go(
    run: Path, *, save_every: int = 2, before: Mapping[int, Callable[[], object]] | None = None
) -> Learner:
    """A run, or its next start, with something that happens before some of its steps."""
    learner = learner_of()
    resume(learner, run, newest_checkpoint(run, learner.accelerator))
    options = RunConfig(save_every=save_every, log_every=1, keep=1)
    session = Session(
        *(run, options, Config(run=options), learner, BadSamples(16, max_fraction=0.5)),
        end=4,
        title="small",
        names_of_step=lambda step, rank: [],
    )
    for step in session.steps():
        (before or {}).get(step, int)()
        train(learner, range(step, step + 1), measure=session.logging)
        line = session.measure()
        if line is not None:
            session.log(line)
        session.save()
    session.end()
    return learner


def fill(disk: Path) -> None:
    """Leave no byte on a disk."""
    with (disk / "filler").open("ab", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return


def losses(run: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_metrics(run)]


def on_a_small_disk(disk: Path, elsewhere: Path) -> None:
    """What `test_a_disk_that_fills_up_loses_nothing` looks at, on a mounted disk of 1 MB."""
    whole = go(elsewhere / "whole")
    expected = losses(elsewhere / "whole")
    filler = disk / "filler"

    run = disk / "metrics"  # no room for lines, and room again before the checkpoint
    learner = go(run, save_every=4, before={0: lambda: fill(disk), 3: filler.unlink})
    assert_equal(learner, whole)
    assert losses(run) == expected

    run = disk / "checkpoint"  # no room for the second one
    with pytest.raises(OSError, match=f"{run}/step_0000004 cannot .*{run}/step_0000002 is kept"):
        go(run, before={3: lambda: fill(disk)})
    assert [path.name for path in run.glob("step_*")] == ["step_0000002"]
    with pytest.raises(OSError, match="No space left"):  # nor for another start
        go(run)
    filler.unlink()
    assert_equal(go(run), whole)
    assert losses(run) == expected

    run = disk / "rotation"  # an old checkpoint that cannot be removed
    busy = run / "step_0000002"

    def mount() -> None:
        assert os.system(f"mount --bind {busy} {busy}") == 0

    assert_equal(go(run, before={3: mount}), whole)
    assert losses(run) == expected
    assert os.system(f"umount {busy}") == 0

    run = disk / "read_only"  # a disk that turns read-only, as after errors of the device
    with pytest.raises(OSError, match=r"step_0000004 cannot be written \(Read-only file system"):
        go(run, before={3: lambda: os.system(f"mount -o remount,ro {disk}")})
    os.system(f"mount -o remount,rw {disk}")
    assert_equal(go(run), whole)
    assert losses(run) == expected
    print("as expected")


@pytest.mark.slow
def test_a_disk_that_fills_up_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    code = f"""
from pathlib import Path
from tests.fcmae.run.test_full_disks import on_a_small_disk
on_a_small_disk(Path({str(disk)!r}), Path({str(tmp_path)!r}))
"""
    done = run_after(f"mount -t tmpfs -o size=1m tmpfs {disk}", code)
    assert done.returncode == 0, done.stdout + done.stderr
    *told, last = done.stdout.splitlines()
    assert last == "as expected"
    warnings = [line for line in told if line.startswith("warning: ")]
    assert len(warnings) == 3, warnings
    for line, run in zip(warnings, ("metrics", "rotation", "read_only"), strict=True):
        what = "removing old checkpoints of" if run == "rotation" else "writing"
        assert line.startswith(f"warning: {what} {disk / run}")
