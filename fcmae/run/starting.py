"""Starting a run, anew or again: its accelerator, its model on processes, its newest checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from fcmae.run import checkpoint, directory, fsdp
from fcmae.run.accelerator import LineAccelerator
from fcmae.run.learner import Learner
from fcmae.run.metrics import restore_metrics
from fcmae.run.processes import Processes
from fcmae.run.terminal import say
from fcmae.run.trackers import check_installed
from fcmae.run.waiting import waiting


def start_accelerator(
    processes: Processes, trackers: Sequence[str] = (), directory: Path | None = None
) -> Accelerator:
    """Make the accelerator of the processes that were launched.

    It neither casts nor scales: `Learner` does, on any device.

    Args:
        processes: the processes that were launched.
        trackers: names of the trackers that get the metrics in addition to metrics.jsonl.
        directory: the directory of the run, for trackers that write files.

    Raises:
        ValueError: accelerate sees another number of processes.
        ModuleNotFoundError: a tracker is not installed.
    """
    check_installed(trackers)
    accelerator = LineAccelerator(
        mixed_precision="no",
        log_with=list(trackers) or None,
        project_dir=directory,
    )
    processes.check(accelerator.num_processes, accelerator.device)
    return accelerator


def newest_checkpoint(run: Path, accelerator: Accelerator) -> Path | None:
    """Find the newest undamaged checkpoint of a run; every process gets the same answer.

    Raises:
        ValueError: the run has checkpoints, and all are damaged.
    """
    # one process looks, or those that see another disk would start from another step
    newest = None
    if accelerator.is_main_process:
        with waiting("verifying the newest checkpoint"):
            newest = checkpoint.newest_whole(run, say)
    (newest,) = broadcast_object_list([newest])
    return newest


def distribute(
    model: nn.Module, accelerator: Accelerator, units: tuple[type[nn.Module], ...] = ()
) -> nn.Module:
    """Prepare a model for training on several processes; with one process it stays as it is.

    Args:
        model: the model, on its device.
        accelerator: the accelerator of the processes.
        units: the classes of the modules to shard by, where accelerate's config asks for FSDP;
            none if the model cannot be sharded.

    Returns:
        What to call in training: the model itself, alone or in shards, or its replica (DDP).
    """
    world = accelerator.num_processes
    if world == 1:
        return model
    if units and fsdp.is_wanted(world):
        fsdp.shard(model, units, accelerator.device, world)
        return model
    return accelerator.prepare(model)


def resume(learner: Learner, run: Path, newest: Path | None) -> None:
    """Load the newest checkpoint of a run, if there is one, and say where the run stands.

    What an earlier start left half written or half removed is swept away.

    Args:
        learner: the learner that goes on from the checkpoint.
        run: the directory of the run.
        newest: the checkpoint's directory, as `newest_checkpoint` finds it.

    Raises:
        ValueError: the checkpoint belongs to another model.
        OSError: lines of metrics that the checkpoint carries cannot be written.
    """
    if learner.accelerator.is_main_process:
        checkpoint.sweep(run, *directory.LEFT)
        if newest is not None:
            restore_metrics(run, newest)
    if newest is not None:
        with waiting("loading the checkpoint"):
            learner.load(newest)
        learner.accelerator.print(f"resuming from {newest}")
    if learner.finished:
        step = learner.state.step
        learner.accelerator.print(f"{run} is complete at step {step} of {learner.total}")
