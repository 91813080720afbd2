"""A learner of a small real model, and its steps as a program's loop takes them."""

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from fcmae.run.learner import Learner, Precision, parameter_groups
from fcmae.run.optim import OptimConfig


class Autoencoder(nn.Module):
    """Two layers that learn to give back an image; the forward pass is the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 16, kernel_size=4, stride=4), nn.GELU())
        self.decoder = nn.ConvTranspose2d(16, 3, kernel_size=4, stride=4)

    def forward(self, images: Tensor) -> Tensor:
        return F.mse_loss(self.decoder(self.encoder(images)).float(), images)


def learner_of(precision: Precision = "fp32", **options: float | None) -> Learner:
    """A learner of the small model, for four steps of four images out of 16."""
    torch.manual_seed(0)
    model = Autoencoder()
    config = {"batch_size": 4, "steps": 4, "base_lr": 0.1} | options
    return Learner(
        model,
        model,
        parameter_groups(model.named_parameters(), 0.05),
        OptimConfig(**config),  # type: ignore[arg-type]
        samples=16,
        precision=precision,
        accelerator=Accelerator(cpu=True),
        averaged=model.encoder,
        prefix="encoder.",
    )


def images_of(step: int) -> Tensor:
    """The images of a step, the same on every call."""
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(step))


def train(learner: Learner, steps: range, *, measure: bool = False) -> None:
    """Take steps as a program's loop takes them."""
    for step in steps:
        learner.begin(step)
        parts = images_of(step).chunk(learner.config.accumulate)
        for micro, images in zip(learner.micro_batches, parts, strict=True):
            with learner.accumulating(micro):
                with learner.autocast():
                    loss = learner.trained(images)
                learner.backward(loss)
        learner.step(measure=measure)


def assert_equal(ours: Learner, theirs: Learner) -> None:
    """Weights, moments, averages and state are equal to the last bit."""
    (state, files), (other_state, other_files) = (
        learner.snapshot(keep=True) for learner in (ours, theirs)
    )
    assert state == other_state
    assert files.keys() == other_files.keys()
    for file, tensors in files.items():
        assert tensors.keys() == other_files[file].keys()
        assert all(torch.equal(tensors[name], other_files[file][name]) for name in tensors), file
