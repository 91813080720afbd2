"""A model in training: AdamW and its schedule, precision, accumulation, clipping, the average.

For each step, a loop calls

    learner.begin(step)
    for micro in learner.micro_batches:
        with learner.accumulating(micro):
            with learner.autocast():
                loss = learner.trained(...)
            learner.backward(loss)
    learner.step(measure=...)
"""

from collections.abc import Iterable, Iterator, Mapping
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
from fcmae.run.compiling import compiled
from fcmae.run.ema import Ema
from fcmae.run.graphs import own_gradients, record
from fcmae.run.optim import OptimConfig, lr_at, total_steps, warmup_steps
from fcmae.run.options import Precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Learner:
    """A model in training, with its optimiser, loss scaler, average, and the state of the run.

    Args:
        model: the model, on its device.
        trained: what is called in training, as `fcmae.run.starting.distribute` makes it of `model`.
        groups: the parameter groups of AdamW; the entry `scale` of a group, if there is one,
            multiplies its learning rate.
        config: the optimiser and its schedule.
        samples: number of images in one pass over the data.
        precision: fp32, or the type of mixed precision. fp16 scales the loss, and skips a step
            whose gradient overflows.
        accelerator: the accelerator of the processes.
        averaged: the module whose parameters are averaged, where `config.ema` asks for it.
        prefix: what stands before their names in a checkpoint.

    Raises:
        ValueError: the config makes no step.
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
        self.compiled = False
        self.replayed = False
        self.accelerator = accelerator
        self.device = accelerator.device
        self.total = total_steps(config, samples)
        self.warmup = warmup_steps(config, samples)
        if config.steps is None and (config.warmup_epochs or 0) >= config.epochs:
            accelerator.print(
                f"optim.warmup_epochs={config.warmup_epochs} is not shorter than the run of"
                f" {config.epochs} epochs: the warm-up is a tenth of it, {self.warmup} steps"
            )
        # fused, since it never waits for the device
        self.optimizer = torch.optim.AdamW(
            groups, lr=config.base_lr, betas=config.betas, fused=True
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.ema = None if config.ema is None else Ema(averaged, config.ema, prefix)
        self.state = TrainState()
        self.lr = 0.0
        self.loss: Float[Tensor, ""] = torch.zeros((), device=self.device)
        self.terms = dict[str, Float[Tensor, ""]]()
        self.norm: Float[Tensor, ""] = torch.zeros(())

    @property
    def averages(self) -> dict[str, Tensor] | None:
        """The averaged parameters by name, or None if `config.ema` asks for no average."""
        return None if self.ema is None else self.ema.averages

    @property
    def finished(self) -> bool:
        """Whether all steps of the run have been taken."""
        return self.state.step >= self.total

    @property
    def micro_batch(self) -> int:
        """The number of images of a micro-batch on this process."""
        return self.config.batch_size // (self.accelerator.num_processes * self.config.accumulate)

    @property
    def micro_batches(self) -> range:
        """The numbers of a step's micro-batches, counted from 1."""
        return range(1, self.config.accumulate + 1)

    def load(self, path: Path) -> None:
        """Load weights, moments, average and state of a checkpoint.

        Args:
            path: the `step_*` directory of the checkpoint.

        Raises:
            ValueError: it is damaged, or belongs to another model.
        """
        self.state = checkpoint.load(path, self.model, self.optimizer, self.averages)
        if self.state.scaler:
            self.scaler.load_state_dict(self.state.scaler)

    def compile(self, model: nn.Module, *inputs: Tensor, deterministic: bool) -> None:
        """Compile the model in place, see `fcmae.run.compiling.compiled`; a line tells a failure.

        Args:
            model: what `trained` calls, not distributed.
            inputs: a micro-batch, with any values.
            deterministic: whether code is chosen by rules alone, and never by timing it.
        """
        say = self.accelerator.print
        self.compiled = compiled(model, inputs, self.autocast, say, deterministic=deterministic)

    def replay(self, model: nn.Module, *inputs: Tensor) -> None:
        """Have a GPU replay the model's passes in training, see `fcmae.run.graphs.record`.

        Args:
            model: what `trained` calls, on the one process of the run; compiled, if it is to be.
            inputs: a micro-batch, with any values.

        Raises:
            ValueError: they cannot be recorded.
        """
        record(model, inputs, self.autocast)
        self.replayed = True

    def begin(self, step: int) -> None:
        """Begin a step, counted from 0: set its learning rate, and forget the loss before."""
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
        self.terms = {}

    @contextmanager
    def accumulating(self, micro: int) -> Iterator[None]:
        """Run the forward and the backward pass of a micro-batch in this context.

        It sums gradients over the processes with the last micro-batch of a step only.

        Args:
            micro: the number of the micro-batch, counted from 1.
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
        if self.replayed and micro == 1 and not last:
            own_gradients(self.model)

    def autocast(self) -> torch.autocast:
        """Make the context in which the forward pass runs in the precision of the run."""
        enabled = self.precision != "fp32"
        return torch.autocast(self.device.type, DTYPES[self.precision], enabled=enabled)

    def backward(
        self, loss: Float[Tensor, ""], terms: Mapping[str, Float[Tensor, ""]] | None = None
    ) -> None:
        """Add the share of a micro-batch to the gradient and to the loss of the step.

        Args:
            loss: of the micro-batch.
            terms: what the loss is made of, by names, or else is measured; none have a gradient.
        """
        self.scaler.scale(loss / self.config.accumulate).backward()
        self.loss += loss.detach() / self.config.accumulate
        for name, value in (terms or {}).items():
            self.terms[name] = self.terms.get(name, 0) + value / self.config.accumulate

    def step(self, *, measure: bool) -> None:
        """Take a step of the optimiser, and update the average.

        Args:
            measure: whether to compute the norm of the gradient. It is 0 otherwise, unless
                clipping needs it.
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
        """Copy all that a checkpoint holds to main memory; every process has to call it.

        Args:
            keep: whether this process wants the copies; the others only help to gather shards.
        """
        state = replace(self.state, scaler=self.scaler.state_dict())
        return state, checkpoint.snapshot(self.model, self.optimizer, self.averages, keep=keep)


def gradient_norm(model: nn.Module, limit: float | None) -> Float[Tensor, ""]:
    """Compute the norm of the whole gradient, and clip the gradient (Pascanu et al. 2013).

    Args:
        model: the model whose parameters have gradients.
        limit: the norm to which a larger gradient is scaled down; None leaves it alone.

    Returns:
        The norm before clipping, on the device of the gradient.
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
    """Split parameters into two groups of AdamW: those with weight decay and those without.

    Matrices and kernels decay; biases, norms, GRN and LayerScale, of one dimension, and tokens do
    not.
    """
    decayed, others = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in parameters:
        if parameter.requires_grad:
            kernel = parameter.ndim > 1 and not name.endswith("_token")
            (decayed if kernel else others).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
