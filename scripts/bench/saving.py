"""What a checkpoint costs: three steps with one, written at once or in a thread, and without.

The model is tiny, on 8 images; a checkpoint has 384 MB and goes to the disk of temporary files.
"""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from fcmae import FCMAE, draw_visible
from fcmae.run import checkpoint
from fcmae.run.checkpoint import TrainState
from fcmae.run.writer import Writer
from scripts.bench.timing import Work

STEPS = 3


class Training:
    """A model that takes steps, and may save a checkpoint after the first one."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.model = FCMAE(name="convnextv2_tiny", generator=generator)
        self.images = torch.randn(8, 3, 224, 224, generator=generator)
        self.visible = draw_visible(8, self.model.n, self.model.ratio, generator=generator)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=True)
        self.run = Path(tempfile.mkdtemp())
        self.writer = Writer(self.run, keep=1)
        atexit.register(shutil.rmtree, self.run)

    def step(self) -> None:
        """Take a training step, as pretrain.py does."""
        self.model(self.images, self.visible)[0].backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def steps(self, save: Callable[[], object] | None) -> None:
        """Take `STEPS` steps, and call `save` after the first one."""
        for number in range(STEPS):
            self.step()
            if number == 0 and save is not None:
                save()
        self.writer.wait()

    def at_once(self) -> None:
        """Save a checkpoint, and wait until it is on the disk."""
        checkpoint.save(self.run, TrainState(1, 8), self.snapshot(), "")

    def behind(self) -> None:
        """Copy a checkpoint, and let a thread write it, for which the last step waits."""
        self.writer.write(TrainState(1, 8), self.snapshot(), "")

    def snapshot(self) -> checkpoint.Files:
        """Copy what a checkpoint holds."""
        return checkpoint.snapshot(self.model, self.optimizer)


def against(way: str) -> tuple[Work, Work]:
    """Make steps that save in one way, and steps that save in another way or not at all."""
    training = Training()
    behind, none = (partial(training.steps, save) for save in (training.behind, None))
    works = {
        "at_once_over_behind": (partial(training.steps, training.at_once), behind),
        "behind_over_none": (behind, none),
        "snapshot_over_none": (partial(training.steps, training.snapshot), none),
    }
    return works[way]


SAVING: dict[str, tuple[Callable[[], tuple[Work, Work]], str]] = {
    "save_at_once_over_behind": (partial(against, "at_once_over_behind"), "> 1"),
    "save_behind_over_none": (partial(against, "behind_over_none"), "near 1"),
    "snapshot_over_none": (partial(against, "snapshot_over_none"), "near 1"),
}
