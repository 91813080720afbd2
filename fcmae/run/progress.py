"""The steps of a training loop, watched: what is not finite, how fast, the line that is logged."""

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
from tqdm import tqdm

from fcmae.run import directory
from fcmae.run.checkpoint import TrainState


class Progress:
    """Iterates over the steps of a run, and measures them.

    Between two calls of `mean_loss` nothing waits for the device.

    Args:
        run: directory of the run.
        steps: those to come, counted from 0.
        batch_size: images a step, over all processes.
        device: of the losses.
        samples: names the samples of a step, counted from 0, on a rank.
        shown: whether this process writes metrics.jsonl and the terminal's lines.
    """

    def __init__(
        self,
        run: Path,
        steps: range,
        batch_size: int,
        device: torch.device,
        samples: Callable[[int, int], Sequence[str]],
        *,
        shown: bool,
    ) -> None:
        self.run, self.end, self.batch_size = run, steps.stop, batch_size
        self.samples, self.shown = samples, shown
        quiet = not (shown and sys.stderr.isatty())
        self.bar = tqdm(steps, initial=steps.start, total=steps.stop, unit="step", disable=quiet)
        self.failed_at = torch.full((), math.inf, device=device)
        self._count_from(steps.start)

    def _count_from(self, step: int) -> None:
        self.logged, self.began, self.waited = step, time.perf_counter(), 0.0

    def __iter__(self) -> Iterator[int]:
        return iter(self.bar)

    def take(self, batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """The next of the batches; waiting for it counts as `data_wait`."""
        began = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - began
        return batch

    def note(self, step: int, value: Float[Tensor, ""]) -> None:
        """Remember the first `step`, counted from 1, whose loss or gradient is not finite."""
        found = self.failed_at.clamp(max=step)
        self.failed_at = torch.where(value.isfinite(), self.failed_at, found)

    def mean_loss(self, loss: Float[Tensor, ""], lr: float) -> float:
        """The mean over all processes, each of which has to call this.

        Args:
            loss: of the last step on this process.
            lr: of the last step.

        Raises:
            FloatingPointError: some step since the last call was noted, on any process.
        """
        mine = torch.stack([loss, self.failed_at])
        everyone = [mine]
        if dist.is_initialized():
            everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
            dist.all_gather(everyone, mine)
        losses, failures = torch.stack(everyone).T.tolist()
        if math.isfinite(first := min(failures)):
            step = int(first)
            named = self.samples(step - 1, failures.index(first)) if self.shown else []
            directory.report_not_finite(self.run, step, lr, named)
        return sum(losses) / len(losses)

    def line(
        self, state: TrainState, loss: float, lr: float, norm: Float[Tensor, ""]
    ) -> dict[str, Any]:
        """What is measured of the steps since the last `log`."""
        elapsed = time.perf_counter() - self.began
        return {
            "step": state.step,
            "samples_seen": state.samples_seen,
            "loss": loss,
            "lr": lr,
            "grad_norm": norm.item() if norm.isfinite() else None,
            "images_per_s": round((state.step - self.logged) * self.batch_size / elapsed, 2),
            "data_wait": round(self.waited / elapsed, 4),
            "memory_gb": round(directory.peak_memory(self.failed_at.device), 3),
        }

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl, and show it beside the bar or as text."""
        step, speed = line["step"], line["images_per_s"]
        if self.shown:
            directory.add_metrics(self.run, line)
            loss, wait = f"loss {line['loss']:.4f}", f"data {line['data_wait']:.0%}"
            self.bar.set_postfix_str(f"{loss}, {speed:.0f} images/s, {wait}")
            if self.bar.disable:
                left = (self.end - step) * self.batch_size
                eta = tqdm.format_interval(left / max(speed, 0.01))
                print(
                    f"step {step}/{self.end}  {loss}  lr {line['lr']:.2e}  {speed:.0f} images/s"
                    f"  {wait}  ETA {eta}",
                    flush=True,
                )
        self._count_from(step)
