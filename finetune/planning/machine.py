"""How fast this machine trains: seconds for an image, measured by a few steps."""

import time
from contextlib import nullcontext
from statistics import median

import torch

from fcmae import FCMAE
from fcmae.architecture import ModelConfig
from fcmae.masking import draw_visible
from fcmae.run.options import Precision
from fcmae.run.threads import cores
from fcmae.run.waiting import counted

STEPS = 3  # timed, after one that compiles and fills caches
BATCH = 32
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Machine:
    """The machine that this process runs on: its device, its cores, and a clock of its steps."""

    def __init__(self) -> None:
        self.device = torch.accelerator.current_accelerator(check_available=True) or torch.device(
            "cpu"
        )
        self.cores = cores()

    def __str__(self) -> str:
        return f"{self.device.type} with {self.cores} cores"

    def seconds_per_image(self, config: ModelConfig, precision: Precision) -> float:
        """Time training steps of a model on random images, the median of a few.

        Args:
            config: The model.
            precision: Of the step.
        """
        device = self.device
        generator = torch.Generator().manual_seed(0)
        model = FCMAE.from_config(config, generator=generator).to(device)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6)
        shape = (BATCH, config.in_chans, *config.sides)
        images = torch.randn(shape, generator=generator).to(device)
        visible = draw_visible(BATCH, model.n, config.ratio, generator=generator).to(device)
        dtype = DTYPES.get(precision)
        times = list[float]()
        for _ in counted(range(1 + STEPS), "timing this machine", 1 + STEPS, "steps"):
            began = time.perf_counter()
            with torch.autocast(device.type, dtype) if dtype is not None else nullcontext():
                loss, _ = model(images, visible)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            loss.item()  # waits for the device
            times.append((time.perf_counter() - began) / BATCH)
        return median(times[1:])
