"""What users choose of the optimiser, and its schedule as pure functions of the step."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimiser and its schedule. The defaults are the paper's, batch and epochs apart."""

    batch_size: int = 256
    """Images a step over all processes and accumulated micro-batches."""
    accumulate: int = 1
    """Micro-batches that each process sums a step from; more need less memory."""
    epochs: float = 100.0
    """Length of the run in passes over the data, unless steps is given."""
    steps: int | None = None
    """Length of the run in steps."""
    warmup_epochs: float = 40.0
    """Linear warm-up in passes over the data; at most a tenth of a run that is given in steps."""
    base_lr: float = 1.5e-4
    """Peak learning rate for a batch of 256; it grows in proportion to batch_size."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine."""
    weight_decay: float = 0.05
    """On weights of two or more dimensions: not on biases, norms, GRN, LayerScale and tokens."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment."""
    clip_grad: float | None = None
    """Largest norm of the gradient."""
    ema: float | None = None
    """Decay of an average of the encoder's weights over the steps, ema.safetensors in checkpoints;
    0.9999 is usual. None keeps none."""


def total_steps(config: OptimConfig, samples: int) -> int:
    """Steps of the run, from `steps`, or from `epochs` over `samples` images.

    Raises:
        ValueError: fewer than one step, or images a step.
    """
    if config.batch_size < 1:
        raise ValueError(f"optim.batch_size={config.batch_size} must be at least 1 image")
    if config.steps is not None:
        steps, source = config.steps, f"optim.steps={config.steps}"
    else:
        steps = int(config.epochs * samples / config.batch_size)
        source = (
            f"optim.epochs={config.epochs} x {samples} samples / batch_size={config.batch_size}"
        )
    if steps < 1:
        raise ValueError(f"{source} makes no step; raise it, or lower optim.batch_size")
    return steps


def warmup_steps(config: OptimConfig, samples: int) -> int:
    """Steps of the warm-up.

    Raises:
        ValueError: it is not shorter than the run.
    """
    steps = int(config.warmup_epochs * samples / config.batch_size)
    if config.steps is not None:
        return min(steps, config.steps // 10)
    if steps >= total_steps(config, samples):
        raise ValueError(
            f"optim.warmup_epochs={config.warmup_epochs} must be fewer than"
            f" optim.epochs={config.epochs}; a tenth of them is usual"
        )
    return steps


def lr_at(
    step: int, *, total: int, warmup: int, base_lr: float, batch_size: int, min_lr: float = 0.0
) -> float:
    """Learning rate of step 0 ... total - 1: linear to base_lr x batch/256, then a half cosine.

    Source: ConvNeXt V2 appendix A.1; the linear scaling rule of Goyal et al. 2017.
    """
    peak = base_lr * batch_size / 256
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return min_lr + (peak - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
