"""A dry run: what holds a run's first steps, loader, host or device, and how long it would take."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from statistics import median

import torch

from data.dataset import Samples
from data.pipeline import worker_count
from fcmae import FCMAE
from fcmae.masking import draw_visible
from fcmae.model_config import ModelConfig
from fcmae.run.checkpoint import latest
from fcmae.run.kernels import Kernel, kernels_of
from fcmae.run.learner import DTYPES, Learner
from fcmae.run.metrics import read_metrics
from fcmae.run.roofline import flops_per_s, name_of, product_flops
from finetune.training.pretraining import PretrainConfig

STEPS = 20
EVERY = 5  # steps between lines; each line waits for the device
PROFILED = 3  # steps, the last ones
WAITING = 0.1  # share of a step from which on the loader holds it
BUSY = 0.85  # likewise of the device
SAMPLES = 64  # at most, read to see how long one takes,
SECONDS = 1.0  # and no longer than this


class DryRun:
    """The steps of a dry run, the last of which are profiled.

    Args:
        device: on which the model trains.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.kernels: list[Kernel] = []

    def over(self, steps: Iterator[int], end: int) -> Iterator[int]:
        """Iterate over the steps, counted from 0, and profile the last ones before `end`."""
        begin = max(0, end - PROFILED)
        yield from islice(steps, begin)
        with kernels_of(self.device, end - begin) as self.kernels:
            yield from steps

    @property
    def kernel_s(self) -> float:
        """Seconds of a step in which the device computes."""
        return sum(kernel.ms for kernel in self.kernels) / 1e3

    def summary(
        self,
        config: PretrainConfig,
        run: Path,
        learner: Learner,
        images: Samples,
    ) -> list[str]:
        """Describe what the steps took, what holds them, and what the whole run takes.

        Args:
            config: of the run.
            run: the directory with the metrics and the checkpoint of the dry run.
            learner: has trained the model.
            images: that the loader reads.
        """
        lines = read_metrics(run)
        settled = lines[1:] or lines  # the first steps fill queues
        speed, wait = (
            median(line[key] for line in settled) for key in ("images_per_s", "data_wait")
        )
        newest = latest(run)
        assert newest is not None
        size = sum(file.stat().st_size for file in newest.iterdir())
        batch = config.optim.batch_size
        step = batch / speed
        world = learner.accelerator.num_processes
        busy = min(1.0, self.kernel_s / step)

        pace = speed / world / max(1 - wait, 0.01)  # of a process that waits for no image
        sample = seconds_per_sample(images)
        workers = worker_count(config.data.workers, world)
        peak = flops_per_s(learner.device, DTYPES[learner.precision])
        flops = flops_per_image(config.model, learner.device, learner.autocast)
        share = flops * speed / world / peak
        all_steps = learner.total
        return [
            f"{lines[-1]['step']} steps: {speed:.0f} images/s, {1000 * step:.0f} ms a step,"
            f" data wait {wait:.0%}; peak memory {lines[-1]['memory_gb']:.2f} GB a process; a"
            f" checkpoint has {size / 1e6:.0f} MB",
            f"{name_of(learner.device)}: the matrix products, {flops / 1e9:.2f} GFLOP an image, are"
            f" {share:.0%} of the {peak / 1e12:.3g} TFLOP/s of a large {learner.precision} one",
            holder(wait, busy, learner.device),
            f"an image takes {1000 * sample:.2f} ms of a core to read, decode and crop:"
            f" {pace * sample:.1f} cores feed {pace:.0f} images/s, and this process has"
            f" {workers} workers",
            f"all {all_steps} steps would take {timedelta(seconds=round(all_steps * step))}",
        ]


def seconds_per_sample(images: Samples) -> float:
    """Measure how long one core reads, decodes and crops an image."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in data workers
    images[0, 0]  # opens files
    began = time.perf_counter()
    done = 0
    while done < min(SAMPLES, len(images)) and time.perf_counter() - began < SECONDS:
        images[0, done]
        done += 1
    torch.set_num_threads(threads)
    return (time.perf_counter() - began) / done


def flops_per_image(
    config: ModelConfig,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]],
) -> float:
    """Count the operations of the matrix products of a training step, for an image.

    Of a model with a contrastive term, an image gives two views.

    Args:
        config: of the model, of which another one is made: that of a run may lie in shards.
        device: where it is made.
        autocast: makes the context of the forward pass.
    """
    generator = torch.Generator().manual_seed(0)
    model = FCMAE.from_config(replace(config, sparse="gathered"), generator=generator)
    count = 2 * config.contrast.views
    images = torch.randn(count, config.in_chans, *model.image_size, generator=generator)
    visible = draw_visible(count, model.n, model.ratio, generator=generator)
    inputs = (images.to(device), visible.to(device))
    return product_flops(model.to(device), inputs, autocast) / 2


def holder(wait: float, busy: float, device: torch.device) -> str:
    """Say what holds a run: the loader, the host or the device.

    Args:
        wait: share of a step in which the host waits for images.
        busy: share of a step in which the device computes.
        device: on which the model trains.
    """
    if wait >= WAITING:
        return f"the loader holds the run: {wait:.0%} of a step waits for images"
    if device.type == "cpu" or busy >= BUSY:
        return f"the device holds the run: it computes {busy:.0%} of a step"
    return (
        f"the host holds the run: the device computes {busy:.0%} of a step, and waits for launches"
        " else; --compile True, --run.cuda_graphs True and larger batches need fewer for an image"
    )
