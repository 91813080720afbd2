"""How fast this machine trains: seconds for an image, measured by a few steps."""

import time
from functools import partial
from statistics import median

import torch

from fcmae import FCMAE
from fcmae.masking import draw_visible
from fcmae.model_config import ModelConfig
from fcmae.run.computing import accelerator_or_cpu
from fcmae.run.learner import DTYPES
from fcmae.run.options import Precision
from fcmae.run.roofline import flops_per_s, name_of
from fcmae.run.threads import cores
from fcmae.run.waiting import counted
from finetune.training.dry_run import flops_per_image

STEPS = 3  # timed, after one that compiles and fills caches
BATCHES = {"cuda": 256}  # images of a step; a smaller one is held by launches on a GPU
BATCH = 32  # elsewhere


class Machine:
    """The machine that this process runs on: its device, its cores, and a clock of its steps."""

    def __init__(self) -> None:
        self.device = accelerator_or_cpu()
        self.cores = cores()

    def __str__(self) -> str:
        told = name_of(self.device)
        return told if self.device.type == "cpu" else f"{told} with {self.cores} cores"

    def seconds_per_image(self, config: ModelConfig, precision: Precision) -> float:
        """Time training steps of a model on random images, the median of a few.

        Of a model with a contrastive term, an image gives two views.

        Args:
            config: The model.
            precision: Of the step.
        """
        device = self.device
        generator = torch.Generator().manual_seed(0)
        model = FCMAE.from_config(config, generator=generator).to(device)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
        batch = BATCHES.get(device.type, BATCH)
        views = config.contrast.views * batch
        shape = (views, config.in_chans, *config.sides)
        images = torch.randn(shape, generator=generator).to(device)
        visible = draw_visible(views, model.n, config.ratio, generator=generator).to(device)
        times = list[float]()
        for _ in counted(range(1 + STEPS), "timing this machine", 1 + STEPS, "steps"):
            began = time.perf_counter()
            with self.autocast(precision):
                loss, *_ = model(images, visible)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            loss.item()  # waits for the device
            times.append((time.perf_counter() - began) / batch)
        return median(times[1:])

    def share_of_peak(self, config: ModelConfig, precision: Precision, seconds: float) -> float:
        """Compare the matrix products of a step to what the device reaches in a large one.

        Args:
            config: The model.
            precision: Of the step.
            seconds: Of the step, for an image.
        """
        autocast = partial(self.autocast, precision)
        needed = flops_per_image(config, self.device, autocast)
        return needed / seconds / flops_per_s(self.device, DTYPES[precision])

    def autocast(self, precision: Precision) -> torch.autocast:
        """Make the context in which a forward pass runs in a precision."""
        enabled = precision != "fp32"
        return torch.autocast(self.device.type, DTYPES[precision], enabled=enabled)
