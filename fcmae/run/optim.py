"""The config of the optimiser, and its schedule as pure functions of the step."""

import math
from dataclasses import dataclass

from fcmae.run.ranges import Batch, Count, Length, NotNegative, Positive, ShareBelow1


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimiser and its schedule; the paper's values, except for batch_size and epochs."""

    batch_size: Batch = 256
    """Images in a step, over all processes and accumulated micro-batches."""
    accumulate: Batch = 1
    """Micro-batches that each process adds up to a step. More of them need less memory. They change
    no number but those of batch norm, whose statistics are of a micro-batch, and of a contrastive
    term, which compares the samples of one."""
    epochs: Positive = 100.0
    """Length of the run in passes over the data, unless steps is given."""
    steps: Count | None = None
    """Length of the run in steps."""
    warmup_epochs: Length | None = 40.0
    """Length of the linear warm-up in passes over the data. None makes it a tenth of the run, and
    so does a length that is not shorter than the run; if steps is given, it is at most a tenth."""
    base_lr: NotNegative = 1.5e-4
    """Peak learning rate for a batch of 256; it grows in proportion to batch_size."""
    min_lr: NotNegative = 0.0
    """Learning rate at the end of the cosine."""
    weight_decay: NotNegative = 0.05
    """Weight decay of tensors of two or more dimensions. Biases, norms, GRN, LayerScale and tokens
    do not decay."""
    betas: tuple[ShareBelow1, ShareBelow1] = (0.9, 0.95)
    """AdamW's decay rates of the first and of the second moment."""
    clip_grad: Positive | None = None
    """Largest norm of the gradient, which is scaled down to it. None does not clip."""
    ema: ShareBelow1 | None = None
    """Decay of an average of the encoder's weights over the steps, which checkpoints hold in
    ema.safetensors; 0.9999 is usual. None keeps no average."""


def total_steps(config: OptimConfig, samples: int) -> int:
    """Compute the number of steps of a run, from `steps`, or from `epochs` over `samples` images.

    Raises:
        ValueError: the run has no step, or a step has no image.
    """
    if config.batch_size < 1:
        raise ValueError(f"optim.batch_size={config.batch_size} must be at least 1 image")
    if config.steps is not None:
        steps = config.steps
        source = f"optim.steps={config.steps}"
    else:
        steps = int(config.epochs * samples / config.batch_size)
        source = (
            f"optim.epochs={config.epochs} x {samples} samples / batch_size={config.batch_size}"
        )
    if steps < 1:
        raise ValueError(f"{source} makes no step; raise it, or lower optim.batch_size")
    return steps


def warmup_steps(config: OptimConfig, samples: int) -> int:
    """Compute the number of steps of the warm-up, where a pass has `samples` images.

    Raises:
        ValueError: see `total_steps`.
    """
    total = total_steps(config, samples)
    if config.warmup_epochs is None:
        return total // 10
    steps = int(config.warmup_epochs * samples / config.batch_size)
    if config.steps is not None:
        return min(steps, total // 10)
    return steps if steps < total else total // 10


def lr_at(
    step: int, *, total: int, warmup: int, base_lr: float, batch_size: int, min_lr: float = 0.0
) -> float:
    """Compute the learning rate of a step: a linear warm-up, then a half cosine.

    The peak is base_lr x batch_size / 256. Sources: ConvNeXt V2, appendix A.1; the linear scaling
    rule of Goyal et al. 2017.

    Args:
        step: the step, from 0 to total - 1.
        total: number of steps of the run.
        warmup: number of steps of the warm-up.
        base_lr: peak learning rate for a batch of 256.
        batch_size: images in a step, over all processes.
        min_lr: learning rate at the end.
    """
    peak = base_lr * batch_size / 256
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return min_lr + (peak - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
