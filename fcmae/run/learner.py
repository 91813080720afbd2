"""What turns losses into steps: AdamW and its schedule, precision, accumulation, the average.

A loop calls, for each step,

    learner.begin(step)
    for micro in learner.micro_batches:
        with learner.accumulating(micro):
            with learner.autocast():
                loss = learner.trained(...)
            learner.backward(loss)
    learner.step(measure=...)
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from fcmae.run import checkpoint
from fcmae.run.checkpoint import Files, TrainState
from fcmae.run.ema import Ema
from fcmae.run.optim import OptimConfig, lr_at, total_steps, warmup_steps
from fcmae.run.options import Precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Learner:
    """A model in training: its optimiser, loss scaler, average, and the state of the run.

    Args:
        model: on its device, and in shards if it is to be.
        trained: the same model as it is called in training: itself, or its replica of many.
        groups: the parameter groups of AdamW; `scale` in one is its part of the learning rate.
        config: the optimiser and its schedule.
        samples: images of one pass over the data.
        precision: fp32, or the type of mixed precision. fp16 scales the loss, and takes no step
            where the gradient overflows.
        accelerator: of the processes.
        averaged: the module whose parameters `config.ema` averages.
        prefix: what stands before their names in the checkpoint.

    Raises:
        ValueError: the config makes no step, or its warm-up is longer than the run.
    """

    def __init__(
        self,
        model: nn.Module,
        trained: nn.Module,
        groups: list[dict[str, Any]],
        config: OptimConfig,
        *,
        samples: int,
        precision: Precision,
        accelerator: Accelerator,
        averaged: nn.Module,
        prefix: str = "",
    ) -> None:
        self.model = model
        self.trained = trained
        self.config = config
        self.samples = samples
        self.precision: Precision = precision
        self.accelerator = accelerator
        self.device = accelerator.device
        self.total = total_steps(config, samples)
        self.warmup = warmup_steps(config, samples)
        # fused asks the device for nothing
        self.optimizer = torch.optim.AdamW(
            groups, lr=config.base_lr, betas=config.betas, fused=True
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.ema = None if config.ema is None else Ema(averaged, config.ema, prefix)
        self.state = TrainState()
        self.lr = 0.0
        self.loss: Float[Tensor, ""] = torch.zeros((), device=self.device)
        self.norm: Float[Tensor, ""] = torch.zeros(())

    @property
    def averages(self) -> dict[str, Tensor] | None:
        """The averaged parameters by name; None where there is no average."""
        return None if self.ema is None else self.ema.averages

    @property
    def finished(self) -> bool:
        """Whether all steps have been taken."""
        return self.state.step >= self.total

    @property
    def micro_batches(self) -> range:
        """The numbers of a step's micro-batches, counted from 1."""
        return range(1, self.config.accumulate + 1)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Args:
            path: its `step_*` directory.

        Raises:
            ValueError: it is damaged, or belongs to another model.
        """
        self.state = checkpoint.load(path, self.model, self.optimizer, self.averages)
        if self.state.scaler:
            self.scaler.load_state_dict(self.state.scaler)

    def begin(self, step: int) -> None:
        """Set the learning rate of step `step`, counted from 0, and forget the loss before it."""
        self.lr = lr_at(
            step,
            total=self.total,
            warmup=self.warmup,
            base_lr=self.config.base_lr,
            batch_size=self.config.batch_size,
            min_lr=self.config.min_lr,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group.get("scale", 1.0)
        self.loss = torch.zeros((), device=self.device)

    @contextmanager
    def accumulating(self, micro: int) -> Iterator[None]:
        """Where a micro-batch's forward and backward pass run.

        Gradients are summed over processes with the last micro-batch of a step only.

        Args:
            micro: its number, counted from 1.
        """
        last = micro == self.config.accumulate
        if isinstance(self.trained, FSDPModule):
            self.trained.set_requires_gradient_sync(last)
            yield
        elif last:
            yield
        else:
            with self.accelerator.no_sync(self.trained):
                yield

    def autocast(self) -> torch.autocast:
        """The context in which the model's forward pass runs in its precision."""
        enabled = self.precision != "fp32"
        return torch.autocast(self.device.type, DTYPES[self.precision], enabled=enabled)

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Add a micro-batch's share to the gradient, and to the step's loss."""
        self.scaler.scale(loss / self.config.accumulate).backward()
        self.loss += loss.detach() / self.config.accumulate

    def step(self, *, measure: bool) -> None:
        """Take the step, and update the average.

        Args:
            measure: compute the gradient's norm, which is 0 otherwise; clipping computes it anyway.
        """
        self.norm = torch.zeros(())
        if measure or self.config.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            self.norm = gradient_norm(self.model, self.config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.state.step)
        self.state = TrainState(
            self.state.step + 1, self.state.samples_seen + self.config.batch_size
        )

    def snapshot(self, *, keep: bool) -> tuple[TrainState, Files]:
        """What a checkpoint holds, copied to main memory. Every process has to call it.

        Args:
            keep: whether this process wants the copies; the others only help to gather shards.
        """
        state = replace(self.state, scaler=self.scaler.state_dict())
        return state, checkpoint.snapshot(self.model, self.optimizer, self.averages, keep=keep)


def gradient_norm(model: nn.Module, limit: float | None) -> Float[Tensor, ""]:
    """Norm of the whole gradient, on its device; with a limit, the gradient is scaled down to it.

    Source: Pascanu et al. 2013.
    """
    if limit is None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
    else:
        norm = nn.utils.clip_grad_norm_(model.parameters(), limit)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> list[dict[str, Any]]:
    """Two groups: matrices and kernels decay; biases, norms, GRN, LayerScale, token do not."""
    named = [(name, p) for name, p in parameters if p.requires_grad]
    return [
        {"params": [p for _, p in named if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]
