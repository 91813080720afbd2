"""The progress of a training loop: its speed, losses that are not finite, and lines of metrics."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributed as dist

from fcmae.run.checkpoint import TrainState, latest
from fcmae.run.display import is_plain
from fcmae.run.files import write_json
from fcmae.run.metrics import MetricsFile, peak_memory
from fcmae.run.outages import tell
from fcmae.run.terminal import line_of
from fcmae.run.waiting import Wait, clock, waiting


class Progress:
    """Iterates over the steps of a run, and measures them.

    Only `mean_loss` and `line` wait for the device.

    Args:
        run: the directory of the run.
        steps: the steps to come, counted from 0.
        batch_size: images in a step, over all processes.
        device: the device of the losses.
        names_of_step: gives the names of the samples of a step, counted from 0, on a rank.
        shown: whether this process writes metrics.jsonl and lines in the terminal.
    """

    def __init__(
        self,
        run: Path,
        steps: range,
        batch_size: int,
        device: torch.device,
        names_of_step: Callable[[int, int], Sequence[str]],
        *,
        shown: bool,
    ) -> None:
        self.run = run
        self.metrics = MetricsFile(run)
        self.first = steps.start + 1
        self.end = steps.stop
        self.batch_size = batch_size
        self.names_of_step = names_of_step
        self.shown = shown
        self.steps = steps
        self.wait: Wait | None = None
        self.failed_at = torch.full((), math.inf, device=device)
        self._count_from(steps.start)

    def _count_from(self, step: int) -> None:
        self.logged = step
        self.began = time.perf_counter()
        self.waited = 0.0

    def __iter__(self) -> Iterator[int]:
        self._count_from(self.logged)
        # in a pipe, the lines of `log` tell more
        shown = self.shown and not is_plain(sys.stderr)
        before, total = self.steps.start, self.steps.stop
        with waiting("training", total, "steps", done=before, shown=shown) as self.wait:
            with waiting("reading the first images, and compiling", shown=self.shown):
                for step in self.steps[:1]:
                    yield step
                    self.wait.advance()
            self.wait.pace_from_here()
            for step in self.steps[1:]:
                yield step
                self.wait.advance()

    def take(self, batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """Take the next batch; the time that it takes counts as `data_wait`."""
        began = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - began
        return batch

    def note(self, step: int, value: Float[Tensor, ""]) -> None:
        """Remember the first `step`, counted from 1, whose loss or gradient is not finite."""
        first = self.failed_at.clamp(max=step)
        self.failed_at = torch.where(value.isfinite(), self.failed_at, first)

    def mean_loss(self, loss: Float[Tensor, ""], lr: float) -> float:
        """Compute the mean of a loss over all processes, each of which has to call this.

        Args:
            loss: the loss of the last step on this process.
            lr: the learning rate of the last step, for the error.

        Raises:
            FloatingPointError: a value that was noted on any process is not finite. The samples of
                the first such step are listed in a file of the run directory.
        """
        mine = torch.stack([loss, self.failed_at])
        everyone = [mine]
        if dist.is_initialized():
            everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
            dist.all_gather(everyone, mine)
        losses, failures = torch.stack(everyone).T.tolist()
        if math.isfinite(first := min(failures)):
            step = int(first)
            if self.shown:
                names = self.names_of_step(step - 1, failures.index(first))
                content = {"step": step, "lr": lr, "samples": names}
                file = not_finite_file(self.run, step)
                try:
                    write_json(file, content)
                except OSError as error:  # the loss is what has to be told
                    tell(f"warning: {file} cannot be written ({line_of(error)}): {content}")
            raise FloatingPointError(not_finite_message(self.run, step, lr, self.first))
        return sum(losses) / len(losses)

    def line(
        self, state: TrainState, loss: float, lr: float, norm: Float[Tensor, ""]
    ) -> dict[str, Any]:
        """Make the line of metrics of the steps since the last `log`.

        Args:
            state: the state of the run after the last step.
            loss: the loss of the last step, a mean over the processes.
            lr: the learning rate of the last step.
            norm: the norm of the gradient of the last step.
        """
        elapsed = time.perf_counter() - self.began
        return {
            "step": state.step,
            "samples_seen": state.samples_seen,
            "loss": loss,
            "lr": lr,
            "grad_norm": norm.item() if norm.isfinite() else None,
            "images_per_s": round((state.step - self.logged) * self.batch_size / elapsed, 2),
            "data_wait": round(self.waited / elapsed, 4),
            "memory_gb": round(peak_memory(self.failed_at.device), 3),
        }

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl, and show it next to the progress bar or as text."""
        step = line["step"]
        speed = line["images_per_s"]
        if self.shown:
            self.metrics.add(line)
            loss = f"loss {line['loss']:.4f}"
            wait = f"data {line['data_wait']:.0%}"
            if self.wait is not None:
                self.wait.note = f"{loss}, {speed:.0f} images/s, {wait}"
            if is_plain(sys.stderr):
                left = (self.end - step) * self.batch_size
                eta = clock(left / max(speed, 0.01))
                tell(
                    f"step {step}/{self.end}  {loss}  lr {line['lr']:.2e}  {speed:.0f} images/s"
                    f"  {wait}  ETA {eta}"
                )
        self._count_from(step)


def not_finite_file(run: Path, step: int) -> Path:
    """Name the file that lists the samples of a step, counted from 1, whose loss is not finite."""
    return run / f"not_finite_{step:07d}.json"


def not_finite_message(run: Path, step: int, lr: float, first: int) -> str:
    """Describe a loss that is not finite, and the ways out.

    Args:
        run: the directory of the run.
        step: the first such step, counted from 1.
        lr: the learning rate of the step.
        first: the first step of this start. No step of it has changed the weights before, so that
            the images or the weights themselves are to blame.
    """
    newest = latest(run)
    listed = f"whose samples {not_finite_file(run, step)} lists"
    if step == first:
        began = f"the weights of {newest}" if newest else "init.weights, if they are given,"
        return (
            f"the loss is not finite at step {step}, the first of this start, {listed}; not the"
            " learning rate is to blame: look for NaN and huge values in these images, for a"
            f" data.mean or data.std that is not on their scale, and in {began} for NaN"
        )
    go_on = f" and --init.weights {newest} --init.decoder True" if newest else ""
    return (
        f"the loss is not finite at step {step} (lr {lr:.2g}), {listed}; newest checkpoint:"
        f" {newest}; if the images have no NaN or huge values, start another --run.dir with a lower"
        f" optim.base_lr, a longer warm-up, optim.clip_grad or precision fp32{go_on}"
    )
