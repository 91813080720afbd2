"""What lies around the loop of a run: processes, run directory, progress, checkpoints, signals.

A loop that runs in a session reads

    session.begin(config, learner, ...)
    batches = iter(loader)
    for step in session.steps():
        ...                                  # `session.take(batches)`, and what `Learner` shows
        learner.step(measure=session.logging)
        line = session.measure()
        if line is not None:
            session.log(line)
        session.save()
    session.end()
"""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn
from torch.distributed.fsdp import FSDPModule

from fcmae.run import checkpoint, directory, fsdp
from fcmae.run.config import to_yaml
from fcmae.run.learner import Learner
from fcmae.run.metrics import as_scalars, tracker_arguments
from fcmae.run.options import RunConfig
from fcmae.run.processes import Processes
from fcmae.run.progress import Progress
from fcmae.run.stopping import STATUS, Stop


@runtime_checkable
class BadSamples(Protocol):
    """The broken samples of a run, as `data.bad_samples` counts them."""

    def new(self, records: Iterable[Any], /) -> list[Any]:
        """Those that were not met before."""
        ...

    def add(self, records: Iterable[Any], /) -> list[Any]:
        """Take the records of all processes in, and return those that are new."""
        ...

    def by_shard(self) -> dict[str, int]:
        """How many there are in each shard."""
        ...


def start_accelerator(
    processes: Processes, trackers: Sequence[str] = (), directory: Path | None = None
) -> Accelerator:
    """The accelerator of the processes that were launched.

    It neither casts nor scales: `Learner` does, on any device.

    Args:
        processes: that were launched.
        trackers: where metrics go beside metrics.jsonl.
        directory: of the run, for trackers that write files.

    Raises:
        ValueError: accelerate sees another number of processes.
    """
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # unless told, it starts no processes on CPUs
        mixed_precision="no",
        log_with=list(trackers) or None,
        project_dir=directory,
    )
    processes.check(accelerator.num_processes, accelerator.device)
    return accelerator


class Session:
    """One run, from its newest checkpoint to its end or the signal that stops it.

    Args:
        run: the run's directory.
        config: what cannot change a number.
        processes: that were launched.
        accelerator: of these processes.
        bad: counts the broken samples.

    Raises:
        ValueError: the run has checkpoints, and all are damaged.
    """

    def __init__(
        self,
        run: Path,
        config: RunConfig,
        processes: Processes,
        accelerator: Accelerator,
        bad: BadSamples,
    ) -> None:
        self.run = run
        self.config = config
        self.processes = processes
        self.accelerator = accelerator
        self.bad = bad
        self.found = list[Any]()  # broken samples since the last line, of this process
        self.signalled = 0
        # one process looks, or those that see another disk would start from another step
        mine = None
        if accelerator.is_main_process:
            mine = checkpoint.newest_whole(run, print)
        (self.newest,) = broadcast_object_list([mine])

    def compare(
        self, config: Any, *, free: tuple[str, ...], length: tuple[str, ...] = ()
    ) -> list[str]:
        """Compare the config with that of the earlier starts; see `fcmae.run.directory.compare`."""
        changed = directory.compare(self.run, config, free=free, length=length)
        for change in changed:
            self.accelerator.print(f"{change}: the schedule is that of the new length from here on")
        return changed

    def distribute(self, model: nn.Module, unit: type[nn.Module] | None = None) -> nn.Module:
        """The model as it is called in training, where there are several processes.

        Args:
            model: on its device.
            unit: the class of the modules to shard by, where accelerate's config asks for FSDP;
                None where the model cannot be sharded.

        Returns:
            The model itself, alone or in shards, or its replica.
        """
        if self.processes.world == 1:
            return model
        if unit is not None and fsdp.is_wanted(self.processes.world):
            fsdp.shard(model, unit, self.accelerator.device, self.processes.world)
            return model
        return self.accelerator.prepare(model)

    def resume(self, learner: Learner) -> None:
        """Go on from the newest whole checkpoint, if there is one.

        Raises:
            ValueError: it belongs to another model.
        """
        if self.newest is not None:
            learner.load(self.newest)
            self.accelerator.print(f"resuming from {self.newest}")
        if learner.finished:
            self.accelerator.print(
                f"{self.run} is complete at step {learner.state.step} of {learner.total}"
            )

    def begin(
        self,
        config: Any,
        learner: Learner,
        *,
        end: int,
        title: str,
        names_of_step: Callable[[int, int], Sequence[str]],
        **where: Any,
    ) -> None:
        """Record this start, start the trackers, and listen to signals from here on.

        Args:
            config: the resolved config.
            learner: what is trained.
            end: the step, counted from 0, before which the run ends.
            title: names the model.
            names_of_step: names the samples of a step on a rank.
            where: what environment.json is to have beside processes and device.

        Raises:
            OSError: the run directory is not writable.
        """
        self.learner = learner
        self.config_yaml = to_yaml(config)
        self.names_of_step = names_of_step
        self.coming = range(learner.state.step, end)
        world = self.processes.world
        device = self.accelerator.device
        sharded = isinstance(learner.trained, FSDPModule)
        if self.accelerator.is_main_process:
            where = {"world_size": world, "device": str(device), "fsdp": sharded} | where
            directory.begin(self.run, config, learner.state.step, **where)
        self.accelerator.wait_for_everyone()
        if self.config.trackers:
            flat, init_kwargs = tracker_arguments(self.run, config)
            self.accelerator.init_trackers("fcmae", flat, init_kwargs=init_kwargs)
        parameters = sum(p.numel() for p in learner.model.parameters()) / 1e6
        self.accelerator.print(
            f"{title} with {parameters:.1f} M parameters, {learner.samples} images,"
            f" {learner.total} steps of {learner.config.batch_size}"
            f" on {world} x {device.type}{' (FSDP2)' if sharded else ''}"
        )
        self.writer = checkpoint.Writer(self.run, self.config.keep, self.config.keep_every)
        self.stop = Stop(self.config.timeout)
        learner.trained.train()

    def steps(self) -> Iterator[int]:
        """The steps to come, counted from 0, until the end, a signal or a failed write."""
        self.progress = Progress(
            self.run,
            self.coming,
            self.learner.config.batch_size,
            self.accelerator.device,
            self.names_of_step,
            shown=self.accelerator.is_main_process,
        )
        for step in self.progress:
            after = step + 1
            self.last = after == self.coming.stop
            self.saving = self.last or after % self.config.save_every == 0
            self.logging = self.saving or after % self.config.log_every == 0
            yield step
            if self.signalled or self.writer.failed():  # `end` says why
                break

    def take(self, batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """Take the next batch, and note its broken samples; waiting counts as `data_wait`."""
        batch = self.progress.take(batches)
        self.found += self.bad.new(batch["bad"])
        return batch

    def measure(self) -> dict[str, Any] | None:
        """The line of metrics after a step that is logged; None after the others.

        Every process has to call it after each step. Only steps that are logged, or the one after
        which a signal stops the run, wait for the device.

        Raises:
            FloatingPointError: a loss, or a gradient, since the last line is not finite.
            ValueError: too many samples are broken.
        """
        learner = self.learner
        step = learner.state.step
        self.progress.note(step, learner.loss)
        self.signalled = self.stop.agreed()
        if not (self.logging or self.signalled):
            return None
        if not learner.scaler.is_enabled():  # it would have taken no such step
            self.progress.note(step, learner.norm.to(learner.device))
        loss = self.progress.mean_loss(learner.loss, learner.lr)
        for sample in self.bad.add(gather_object(self.found)):  # every process stops where one does
            self.accelerator.print(f"skipped {sample}")
        self.found = []
        if not self.logging:
            return None
        line = self.progress.line(learner.state, loss, learner.lr, learner.norm)
        line["bad_samples"] = self.bad.by_shard()
        if learner.scaler.is_enabled():
            line["loss_scale"] = learner.scaler.get_scale()
        return line

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl, show it, and hand it to the trackers."""
        self.progress.log(line)
        if self.config.trackers:
            self.accelerator.log(as_scalars(line), step=line["step"])

    def save(self) -> None:
        """Start to write a checkpoint, where one is due or a signal stops the run.

        Raises:
            OSError: the checkpoint before it could not be written.
        """
        if self.saving or self.signalled:
            is_main = self.accelerator.is_main_process
            state, files = self.learner.snapshot(keep=is_main)
            if is_main:
                self.writer.write(state, files, self.config_yaml)

    def end(self) -> None:
        """Wait for the last checkpoint, and end the trackers of this run.

        Raises:
            OSError: a checkpoint could not be written.
            SystemExit: a signal has stopped the run, which is saved; its status says which.
        """
        self.writer.wait()
        self.accelerator.wait_for_everyone()
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.trackers = []  # of this run; the program may start another
        if self.signalled:
            name = signal.Signals(self.signalled).name
            step = self.learner.state.step
            self.accelerator.print(f"{name}: stopped and saved at step {step}")
            self.accelerator.end_training()
            sys.exit(STATUS[self.signalled])
