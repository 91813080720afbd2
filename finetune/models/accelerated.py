"""The forward pass of a model on the accelerator where torch sees one, from and to the CPU."""

from torch import Tensor, nn

from fcmae.run.computing import accelerator_or_cpu
from finetune.models.compiled import Forward


def accelerated(model: nn.Module) -> Forward:
    """Move a model to the accelerator, or to the CPU where there is none, and run it from there.

    Args:
        model: it is put into evaluation mode.

    Returns:
        A function that takes images on the CPU, and gives the model's outputs on the CPU.
    """
    device = accelerator_or_cpu()
    model.to(device).eval()

    def forward(images: Tensor) -> Tensor:
        return model(images.to(device)).cpu()

    return forward
