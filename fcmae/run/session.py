"""What lies around the loop of a run: run directory, progress, metrics, checkpoints, signals.

A program starts a run by the functions of `fcmae.run.starting`, and its loop reads

    session = Session(...)
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
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate.utils import gather_object
from torch.distributed.fsdp import FSDPModule

from fcmae.run import directory
from fcmae.run.config import to_yaml
from fcmae.run.learner import Learner
from fcmae.run.options import RunConfig
from fcmae.run.outages import tell
from fcmae.run.progress import Progress
from fcmae.run.stopping import STATUS, Stop
from fcmae.run.trackers import Trackers
from fcmae.run.training_data import Shard
from fcmae.run.waiting import waiting
from fcmae.run.writer import Writer


@runtime_checkable
class BadSamples(Protocol):
    """The samples of a run that cannot be read, as `data.bad_samples` counts them."""

    def new(self, records: Iterable[Any], /) -> list[Any]:
        """Return the records of samples that were not met before."""
        ...

    def add(self, records: Iterable[Any], /) -> list[Any]:
        """Count the records of all processes, and return those that are new."""
        ...

    def state(self) -> dict[str, Any]:
        """Return, for a checkpoint, all that `restore` needs."""
        ...

    def restore(self, state: Mapping[str, Any], /) -> None:
        """Count what an earlier start has met; the state may be empty."""
        ...

    def by_shard(self) -> dict[str, int]:
        """Return the number of bad samples in each shard."""
        ...


class Session:
    """The steps of a run, from where its learner stands to its end or the signal that stops it.

    Making a session records this start in the run directory, starts the trackers, and catches
    SIGTERM, SIGUSR1 and Ctrl-C from then on, up to `end`.

    Args:
        run: the directory of the run.
        options: the part of the config that cannot change a number.
        config: the whole resolved config, which is written into the run directory.
        learner: the model in training, at the step that the run goes on from.
        bad: the counter of the samples that cannot be read.
        end: the number of steps after which the run ends, counted from its first start.
        title: the name of the model, for people.
        names_of_step: gives the names of the samples of a step, counted from 0, on a rank.
        changed: what this start changes of the config, as lines for environment.json.
        shards: the training data, which a restart has to have again.

    Raises:
        OSError: the run directory is not writable, or a tracker cannot start.
    """

    def __init__(
        self,
        run: Path,
        options: RunConfig,
        config: Any,
        learner: Learner,
        bad: BadSamples,
        *,
        end: int,
        title: str,
        names_of_step: Callable[[int, int], Sequence[str]],
        changed: Sequence[str] = (),
        shards: Sequence[Shard] = (),
    ) -> None:
        accelerator = learner.accelerator
        self.accelerator = accelerator
        self.options = options
        self.learner = learner
        self.bad = bad
        bad.restore(learner.state.bad)
        self.config_yaml = to_yaml(config)
        self.met = list[Any]()  # bad samples of this process since the last line of metrics
        self.signalled = 0
        self.last = False
        self.saving = False
        self.logging = False
        self.saved_at = time.monotonic()

        world = accelerator.num_processes
        sharded = isinstance(learner.trained, FSDPModule)
        if accelerator.is_main_process:
            facts: dict[str, Any] = {"world_size": world, "device": str(accelerator.device)}
            facts |= {"fsdp": sharded, "compiled": learner.compiled}
            facts |= {"replayed": learner.replayed, "changed": list(changed)}
            directory.begin(run, config, learner.state.step, facts, shards)
        accelerator.wait_for_everyone()
        self.trackers = Trackers(accelerator, options.trackers, run, config)
        parameters = sum(p.numel() for p in learner.model.parameters()) / 1e6
        accelerator.print(
            f"{title} with {parameters:.1f} M parameters, {learner.samples} images,"
            f" {learner.total} steps of {learner.config.batch_size}"
            f" on {world} x {accelerator.device.type}{' (FSDP2)' if sharded else ''}"
            f" with {torch.get_num_threads()} threads,"
            f" in {learner.precision}{', compiled' if learner.compiled else ''}"
            f"{', as CUDA graphs' if learner.replayed else ''}"
        )
        self.writer = Writer(run, options.keep, options.keep_every)
        self.stop = Stop(options.timeout)
        self.progress = Progress(
            run,
            range(learner.state.step, end),
            learner.config.batch_size,
            accelerator.device,
            names_of_step,
            shown=accelerator.is_main_process,
        )
        learner.trained.train()

    def steps(self) -> Iterator[int]:
        """Iterate over the steps to come, counted from 0, until the end or an early stop.

        A signal, or a checkpoint that cannot be written, stops the run early; `end` says which.
        """
        for step in self.progress:
            after = step + 1
            self.last = after == self.progress.end
            every = self.options.save_every
            self.saving = self.last or (every is not None and after % every == 0)
            self.logging = self.saving or after % self.options.log_every == 0
            yield step
            if self.signalled or self.writer.failed():
                break

    def take(self, batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """Take the next batch and note its bad samples; the time it takes counts as `data_wait`."""
        batch = self.progress.take(batches)
        self.met += self.bad.new(batch["bad"])
        return batch

    def measure(self) -> dict[str, Any] | None:
        """Make the line of metrics after a step that is logged; None after the other steps.

        Every process has to call it after each step. Only after a step that is logged, or that a
        signal makes the last one, does it wait for the device.

        Raises:
            FloatingPointError: a loss or a gradient since the last line is not finite.
            ValueError: too many samples cannot be read.
        """
        learner = self.learner
        step = learner.state.step
        self.progress.note(step, learner.loss)
        self.signalled, due = self.stop.agreed(self.due_by_clock())
        self.saving = self.saving or bool(self.signalled) or due
        if not (self.logging or self.saving):
            return None
        if not learner.scaler.is_enabled():  # it would have taken no such step
            self.progress.note(step, learner.norm.to(learner.device))
        loss = self.progress.mean_loss(learner.loss, learner.lr)
        for sample in self.bad.add(gather_object(self.met)):  # every process stops where one does
            self._say(f"skipped {sample}")
        self.met = []
        if not self.logging:
            return None
        line = self.progress.line(learner.state, loss, learner.lr, learner.norm)
        line |= self.terms()
        line["bad_samples"] = self.bad.by_shard()
        if learner.scaler.is_enabled():
            line["loss_scale"] = learner.scaler.get_scale()
        return line

    def terms(self) -> dict[str, float]:
        """The terms of the loss of the last step, means over the processes; all have to call it."""
        terms = self.learner.terms
        if not terms:
            return {}
        means = self.accelerator.reduce(torch.stack(list(terms.values())), "mean")
        assert isinstance(means, torch.Tensor)  # as what it was given
        return dict(zip(terms, means.tolist(), strict=True))

    def due_by_clock(self) -> bool:
        """Whether the main process finds a checkpoint due, which it says once."""
        minutes = self.options.save_minutes
        late = minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes
        if late:
            self.saved_at = time.monotonic()
        return late and self.accelerator.is_main_process

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl, show it in the terminal, and hand it to the trackers."""
        self.progress.log(line)
        self.trackers.log(line)

    def save(self) -> None:
        """Start to write a checkpoint after a step for which one is due, or that a signal ends.

        Raises:
            OSError: the checkpoint before it could not be written; the message says what is kept.
        """
        if self.saving:
            self.saved_at = time.monotonic()
            is_main = self.accelerator.is_main_process
            state, files = self.learner.snapshot(keep=is_main)
            if is_main:
                waiting = self.progress.metrics.waiting
                state = replace(state, bad=self.bad.state())
                self.writer.write(state, files, self.config_yaml, waiting)

    def end(self) -> None:
        """Wait until the last checkpoint is written, and end the trackers of this run.

        Raises:
            OSError: a checkpoint could not be written; the message says what is kept.
            SystemExit: a signal stopped the run, which is saved; the exit status tells which.
        """
        try:
            with waiting("writing the last checkpoint"):
                self.writer.wait()
            self.accelerator.wait_for_everyone()
        finally:
            self.progress.metrics.write()  # there may be room again
            self.trackers.finish()
            self.stop.release()  # what comes next, such as a test, has nothing to save
        if self.signalled:
            name = signal.Signals(self.signalled).name
            self._say(f"{name}: stopped and saved at step {self.learner.state.step}")
            self.accelerator.end_training()
            sys.exit(STATUS[self.signalled])

    def _say(self, line: str) -> None:
        if self.accelerator.is_main_process:
            tell(line)
