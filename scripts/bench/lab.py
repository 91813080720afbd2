"""One device, and the training steps that are timed on it: each side in all its modes."""

import gc
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from fcmae.run.compiling import MOST, Granularity, parts_of
from fcmae.run.computing import only_deterministic
from fcmae.run.graphs import recorded
from fcmae.run.terminal import line_of, say
from scripts.bench.rivals import mae_of
from scripts.bench.steps import batch_of, dense, high_water, model_of, same, step, without_kernels
from scripts.bench.timing import Work, in_turn

Size = Literal["atto", "tiny", "base"]
SIZES: dict[Size, tuple[str, int]] = {
    "tiny": ("convnextv2_tiny", 256),
    "atto": ("convnextv2_atto", 512),
    "base": ("convnextv2_base", 128),
}
OURS, CUDNN, DENSE, MAE = "gathered", "gathered with cuDNN", "masked dense", "MAE ViT-S"
GRAPHS = "compiled, as CUDA graphs"
AGAIN = 30.0  # seconds after which a library that has swallowed an alarm hears the next one


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A side's step in one mode, as it was measured by itself."""

    mode: str
    model: nn.Module
    called: nn.Module
    """The model, or what replays it."""
    images: Tensor
    visible: Tensor
    work: Work
    """One step, which ends when the device is done."""
    seconds: float
    """Of one step, the median."""
    peak: int
    """The most bytes of the device's memory that the step held, weights included."""
    first_s: float
    """Seconds of the first step, in which the model is compiled."""

    @property
    def images_per_s(self) -> float:
        return len(self.images) / self.seconds

    def numbers(self) -> dict[str, float]:
        """What is printed of it, and stands in the JSON."""
        return {
            "ms": round(1e3 * self.seconds, 2),
            "images_per_s": round(self.images_per_s, 1),
            "peak_gb": round(self.peak / 1e9, 2),
            "first_step_s": round(self.first_s, 1),
        }


class Lab:
    """The device, what was timed on it so far, and how much time is left.

    Args:
        dry: whether all of it runs on the CPU, at toy sizes and without Inductor, which shows that
            it works, and measures nothing.
        runs: timed runs of each side.
        scope: what is compiled: each block, each stage, or the whole model.
        limit: seconds after which nothing new begins.
        patience: seconds that one model may take to compile.
    """

    def __init__(
        self, *, dry: bool, runs: int, scope: Granularity, limit: float, patience: float
    ) -> None:
        self.dry = dry
        self.runs = runs
        self.scope: Granularity = scope
        self.end = time.monotonic() + limit
        self.patience = patience
        self.device = torch.device("cpu" if dry else "cuda")
        self.timed: dict[tuple[str, Size], list[Timed]] = {}
        self.numbers: dict[str, dict[str, float]] = {}
        self.profiled = set[Size]()
        self.at: Size | None = None
        # each shape gets code of its own; past the limit, steps would silently be eager again
        torch._dynamo.config.recompile_limit = MOST
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        torch.set_float32_matmul_precision("high")

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.monotonic()

    def batch(self, size: Size) -> int:
        """The number of images of a step."""
        return 2 if self.dry else SIZES[size][1]

    def name(self, size: Size) -> str:
        """The name of a size's model; dry, the smallest one stands in for all."""
        return SIZES["atto" if self.dry else size][0]

    @property
    def side(self) -> int:
        """The side of the images in pixels."""
        return 64 if self.dry else 224

    def autocast(self) -> torch.autocast:
        """The context of a forward pass: bf16, as on any current GPU."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def synced(self, work: Work) -> Work:
        """Make work that ends when the device is done with it."""

        def whole() -> None:
            work()
            if not self.dry:
                torch.cuda.synchronize()

        return whole

    def make(self, side: str, size: Size) -> tuple[nn.Module, Tensor, Tensor]:
        """Make the model of a side with a batch for it, on the device."""
        if side == MAE:
            model = mae_of(self.side)
        else:
            depths = (1, 1, 1, 1) if self.dry else None
            model = model_of(self.name(size), image_size=self.side, depths=depths)
            model = {OURS: same, CUDNN: without_kernels, DENSE: dense}[side](model)
        batch = batch_of(self.batch(size), self.side, model.n, model.ratio)
        images, visible = (tensor.to(self.device) for tensor in batch)
        return model.to(self.device), images, visible

    def compile(self, model: nn.Module) -> None:
        """Have a model compiled by its first step, in static shapes."""
        for part in parts_of(model, self.scope):
            if self.dry:
                part.compile(dynamic=False, backend="aot_eager")
            else:
                strict = torch.are_deterministic_algorithms_enabled()
                part.compile(dynamic=False, options={"deterministic": strict})

    def time(self, side: str, size: Size, mode: str) -> Timed:
        """Make a side's model, compile it if that is the mode, and time its step by itself.

        Raises:
            TimeoutError: it took too long.
            RuntimeError: it cannot be recorded.
        """
        if mode == GRAPHS:
            return self.record(self.time(side, size, "compiled"))
        before = self.allocated()
        model, images, visible = self.make(side, size)
        if mode == "compiled":
            self.compile(model)
        return self.of(mode, model, model, images, visible, before)

    def record(self, timed: Timed) -> Timed:
        """Time a model that was timed before as CUDA graphs, which leave it as it is.

        Raises:
            RuntimeError: it cannot be recorded.
        """
        if self.dry:
            raise RuntimeError("a CPU has no CUDA graphs")
        model = timed.model
        model.zero_grad()
        before = self.allocated() - sum(p.nbytes for p in model.parameters())
        self.reset_peak()
        called = recorded(model, (timed.images, timed.visible), self.autocast)
        peak = torch.cuda.max_memory_allocated() - before  # graphs keep what they need from now on
        made = self.of(GRAPHS, model, called, timed.images, timed.visible, before)
        return replace(made, peak=max(peak, made.peak))

    def of(
        self,
        mode: str,
        model: nn.Module,
        called: nn.Module,
        images: Tensor,
        visible: Tensor,
        before: int,
    ) -> Timed:
        """Time the step of a model in a mode, with the bytes that were in use without it."""
        work = self.synced(partial(step, called, images, visible, self.autocast))
        began = time.perf_counter()
        with within(min(self.patience, max(self.left, 1.0)), f"compiling for {mode} steps"):
            work()
        first = time.perf_counter() - began
        self.reset_peak()
        (times,) = in_turn((work,), 1 if self.dry else 5)
        peak = (high_water() if self.dry else torch.cuda.max_memory_allocated()) - before
        return Timed(
            mode=mode,
            model=model,
            called=called,
            images=images,
            visible=visible,
            work=work,
            seconds=statistics.median(times),
            peak=peak,
            first_s=first,
        )

    def modes(self, side: str, size: Size) -> list[Timed]:
        """A side's step in all modes in which it runs, timed once, the fastest first.

        Raises:
            RuntimeError: it runs in none.
        """
        if size != self.at:
            self.forget()
            self.at = size
        if (side, size) not in self.timed:
            found = list[Timed]()
            for mode in ("eager", "compiled", GRAPHS):
                title = f"{side} {size} b{self.batch(size)} {mode}"
                with telling(title):
                    if mode != GRAPHS:
                        timed = self.time(side, size, mode)
                    elif found and found[-1].mode == "compiled":
                        timed = self.record(found[-1])
                    else:
                        raise RuntimeError("it is not compiled")
                    self.numbers.setdefault(f"{side} {size} {mode}", timed.numbers())
                    numbers = ", ".join(f"{k} {v:g}" for k, v in timed.numbers().items())
                    say(f"  {title}: {numbers}", flush=True)
                    found.append(timed)
            self.timed[side, size] = sorted(found, key=lambda timed: timed.seconds)
        if not self.timed[side, size]:
            raise RuntimeError(f"{side} {size} runs in no mode")
        return self.timed[side, size]

    def best(self, side: str, size: Size) -> Timed:
        """A side's step in its fastest mode."""
        return self.modes(side, size)[0]

    def forget(self) -> None:
        """Free all models and what was compiled of them, whose guards each call would look at."""
        self.timed.clear()
        torch.compiler.reset()
        gc.collect()
        if not self.dry:
            torch.cuda.empty_cache()

    def allocated(self) -> int:
        """Bytes of the device's memory that are in use; dry, the largest of this process so far."""
        return high_water() if self.dry else torch.cuda.memory_allocated()

    def reset_peak(self) -> None:
        """Measure the most memory from here on."""
        if not self.dry:
            torch.cuda.reset_peak_memory_stats()


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Name what fails, whatever the error is, and go on."""
    try:
        yield
    except Exception as error:  # of PyTorch's compiler, or of the device
        say(f"  {what} failed: {type(error).__name__}: {line_of(error)[:400]}", flush=True)


@contextmanager
def within(seconds: float, doing: str) -> Iterator[None]:
    """Stop a block that takes too long.

    Raises:
        TimeoutError: it took more than so many seconds.
    """

    def late(*_: object) -> None:
        raise TimeoutError(f"{doing} takes more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def deterministic() -> Iterator[None]:
    """Allow PyTorch deterministic operations alone."""
    only_deterministic(True, strict=True)
    try:
        yield
    finally:
        only_deterministic(False, strict=True)
