"""Measure the speed of training steps and of the loader, against rivals.

    python scripts/benchmark.py step [--only KEY] [--json]
    python scripts/benchmark.py data [--only KEY] [--json]
    python scripts/benchmark.py save [--only KEY] [--json]
    python scripts/benchmark.py growth [--plot growth.png]

`step` prints ratios of times: medians of several runs in one process, with both sides in turn on
the same weights, images and masks. A step is forward, loss and backward, without the optimiser.
`data` prints ratios of the loader's images/s, on one core.
`save` times steps with and without a checkpoint.
`growth` prints the time of a step against ratio, image size and batch.
"""

import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fcmae import FCMAE, draw_visible
from fcmae.architecture import Architecture, Implementation
from fcmae.encoder import Encoder
from fcmae.run.config import run_program
from fcmae.sparse.gathered import Gathered
from fcmae.sparse.grn_mlp import GlobalResponseNorm
from scripts.bench.loading import IMAGES, LOADING
from scripts.bench.rivals import MaskedAutoencoder, MaskedDense, Products, minkowski_modules
from scripts.bench.saving import SAVING

Work = Callable[[], object]
console = Console()


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The flags of the benchmark."""

    what: Annotated[Literal["step", "data", "save", "growth"], tyro.conf.Positional]
    """What to measure. step, data, save: ratios against rivals. growth: time of a step against
    ratio, image size and batch."""
    only: str = ""
    """Measure one key of `step`, `data` or `save` alone."""
    threads: int = 2
    """Threads of PyTorch; `data` is measured with one."""
    runs: int = 9
    """Number of timed runs of each side, after one that warms up."""
    json: bool = False
    """Print one JSON object as the last line."""
    plot: Path | None = None
    """PNG file for the curves of `growth`."""


def model_of(name: str, sparse: Implementation = "gathered", **options: Any) -> FCMAE:
    """Make a model with fixed weights, and with weights of GRN that are not zero."""
    model = FCMAE(name=name, sparse=sparse, generator=torch.Generator().manual_seed(0), **options)
    for module in model.modules():
        if isinstance(module, GlobalResponseNorm):
            torch.nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(1))
    return model


def batch_of(b: int, size: int, n: int, ratio: float) -> tuple[Tensor, Tensor]:
    """Make `b` images of `size` pixels a side, and their visible patches of `n`."""
    g = torch.Generator().manual_seed(0)
    return torch.randn(b, 3, size, size, generator=g), draw_visible(b, n, ratio, generator=g)


def step(
    model: torch.nn.Module,
    images: Tensor,
    visible: Tensor,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """Run forward, loss and backward of a whole model, or of an encoder alone."""
    model.zero_grad()
    with context():
        out = model(images, visible)
        loss = out[0] if isinstance(out, tuple) else out.float().square().mean()
    loss.backward()


def dense(model: FCMAE) -> FCMAE:
    """Exchange the operations of a model's encoder for those on masked dense tensors."""
    model.encoder.sparse = MaskedDense
    return model


def against_dense(name: str, b: int) -> tuple[Work, Work]:
    """Make steps of a masked dense encoder, and gathered steps."""
    return steps(dense(model_of(name)), name, b)


def against_minkowski(name: str, b: int) -> tuple[Work, Work]:
    """Make steps of MinkowskiEngine with our depthwise convolution, and gathered steps."""
    return steps(model_of(name, "minkowski"), name, b)


def against_modules(name: str, b: int) -> tuple[Work, Work]:
    """Make steps of MinkowskiEngine with its own depthwise module, and gathered steps."""
    rival = model_of(name)
    rival.encoder.sparse = minkowski_modules()
    return steps(rival, name, b)


def encoders(name: str, b: int) -> tuple[Work, Work]:
    """Make steps of the masked dense and of the gathered encoder."""
    model = model_of(name)
    rival = dense(model_of(name))
    images, visible = batch_of(b, 224, model.n, model.ratio)
    ours, theirs = (partial(step, each.encoder, images, visible) for each in (model, rival))
    return theirs, ours


def steps(rival: torch.nn.Module, name: str, b: int) -> tuple[Work, Work]:
    """Make whole steps of a rival model, and gathered ones."""
    model = model_of(name)
    images, visible = batch_of(b, 224, model.n, model.ratio)
    return partial(step, rival, images, visible), partial(step, model, images, visible)


def against_mae(name: str, b: int) -> tuple[Work, Work]:
    """Make steps of MAE with ViT-S, and of FCMAE."""
    mae = MaskedAutoencoder()
    return partial(step, mae, *batch_of(b, 224, mae.n, mae.ratio)), steps(mae, name, b)[1]


def against_products(name: str, b: int) -> tuple[Work, Work]:
    """Make the matrix products of steps alone, and whole steps."""
    model = model_of(name)
    return Products(name, model, b), steps(model, name, b)[1]


def against_no_numba(name: str, b: int) -> tuple[Work, Work]:
    """Make steps without and with loops compiled by Numba."""
    rival = model_of(name)
    rival.encoder.sparse = rival.decoder.sparse = partial(Gathered, compiled=False)
    return steps(rival, name, b)


def half_precision(name: str, b: int) -> tuple[Work, Work]:
    """Make steps under bf16 autocast, and in fp32."""
    bf16 = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    model = model_of(name)
    batch = batch_of(b, 224, model.n, model.ratio)
    return partial(step, model, *batch, bf16), partial(step, model, *batch)


ATTO = "convnextv2_atto"
TINY = "convnextv2_tiny"
# key -> what makes (numerator, denominator), and the ratio that is aimed at
TIMES: dict[str, tuple[Callable[[], tuple[Work, Work]], str]] = {
    "masked_dense_over_gathered_encoder_atto_b32": (partial(encoders, ATTO, 32), ">= 3.0"),
    "masked_dense_over_gathered_encoder_tiny_b8": (partial(encoders, TINY, 8), ">= 3.3"),
    "masked_dense_over_gathered_step_atto_b32": (partial(against_dense, ATTO, 32), ">= 2.3"),
    "minkowski_over_gathered_step_atto_b8": (partial(against_minkowski, ATTO, 8), ">= 4"),
    "minkowski_over_gathered_step_atto_b32": (partial(against_minkowski, ATTO, 32), ">= 6"),
    "minkowski_modules_over_gathered_step_atto_b8": (partial(against_modules, ATTO, 8), ">= 4"),
    "minkowski_modules_over_gathered_step_atto_b32": (partial(against_modules, ATTO, 32), ">= 6"),
    "mae_vit_s_over_fcmae_tiny_step_b8": (partial(against_mae, TINY, 8), ">= 2.2"),
    "floor_over_gathered_step_atto_b32": (partial(against_products, ATTO, 32), ">= 0.55"),
    "floor_over_gathered_step_tiny_b8": (partial(against_products, TINY, 8), ">= 0.65"),
    "bf16_over_fp32_step_atto_b32": (partial(half_precision, ATTO, 32), "<= 0.65"),
    "without_numba_over_gathered_step_atto_b32": (partial(against_no_numba, ATTO, 32), "> 1"),
}
MEMORY = "activation_memory_gathered_over_masked_dense_encoder_atto_b32"


def seconds(work: Work) -> float:
    """Measure the wall time of one call, in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(works: tuple[Work, ...], runs: int) -> list[list[float]]:
    """Time each work in seconds, in turn, so that a drift of the machine affects all alike."""
    for work in works:
        work()
    rounds = [[seconds(work) for work in works] for _ in range(runs)]
    return [list(times) for times in zip(*rounds, strict=True)]


def peak_memory(rival: bool) -> int:
    """Measure how much one step of atto's encoder on 32 images raises the peak memory, in bytes.

    A step on one image comes first, so that libraries, weights and compiled code do not count.
    """
    model = dense(model_of(ATTO)) if rival else model_of(ATTO)
    images, visible = batch_of(32, 224, model.n, model.ratio)
    step(model.encoder, images[:1], visible[:1])
    before = high_water()
    step(model.encoder, images, visible)
    return high_water() - before


def high_water() -> int:
    """Read the largest resident memory of this process so far, in bytes, as Linux counts it.

    In getrusage, a new process would begin with the peak of the one that started it.
    """
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def compare(args: Benchmark) -> dict[str, float | None]:
    """Measure the keys of `step`, `data` or `save`, and print the table.

    Raises:
        ValueError: `--only` is none of the keys.
    """
    times_of = {"data": LOADING, "save": SAVING}.get(args.what, TIMES)
    keys = [*times_of, MEMORY] if args.what == "step" else [*times_of]
    if args.only and args.only not in keys:
        raise ValueError(f"--only {args.only} is none of {', '.join(keys)}")
    table = Table(title=f"{args.threads} threads, medians of {args.runs} runs in turn")
    for column in ("key", "ratio", "of pairs", "aim", "numerator", "denominator"):
        table.add_column(column)
    ratios: dict[str, float | None] = {}
    for key, (make, aim) in times_of.items():
        if args.only in ("", key):
            try:
                works = make()
            except ValueError as error:  # a rival that is not installed
                console.print(f"{key}: not measured: {error}")
                ratios[key] = None
                continue
            above, below = in_turn(works, args.runs)
            ratios[key] = statistics.median(above) / statistics.median(below)
            pairs = [a / b for a, b in zip(above, below, strict=True)]
            row = [f"{ratios[key]:.2f}", f"{min(pairs):.2f} to {max(pairs):.2f}", aim]
            if args.what == "data":  # of images/s, ours is the numerator
                row += [f"{IMAGES / statistics.median(t):.0f} images/s" for t in (below, above)]
            else:
                row += [f"{1e3 * statistics.median(t):.0f} ms" for t in (above, below)]
            table.add_row(key, *row)
            console.print(key, *row)
    if MEMORY in keys and args.only in ("", MEMORY):
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            ours, theirs = pool.map(peak_memory, (False, True), chunksize=1)
        ratios[MEMORY] = ours / theirs
        table.add_row(
            MEMORY,
            f"{ours / theirs:.2f}",
            "",
            "<= 0.40",
            *(f"{m / 2**20:.0f} MiB" for m in (ours, theirs)),
        )
    console.print(table)
    if args.what == "step" and not args.only:
        model = model_of(ATTO)
        step(model, *batch_of(1, 224, model.n, model.ratio))
        optimizer = torch.optim.AdamW(model.parameters())
        (times,) = in_turn((optimizer.step,), args.runs)
        console.print(f"AdamW, atto: {1e3 * statistics.median(times):.1f} ms a step, not counted")
    return ratios


def growth(args: Benchmark) -> dict[str, list[dict[str, float]]]:
    """Time a step of atto's encoder against ratio, image size and batch, one after the other.

    What does not change is 0.6, 224 px and 16 images.
    """
    usual = {"ratio": 0.6, "image_size": 224, "batch": 16}
    sweeps = {
        "ratio": (0.0, 0.2, 0.4, 0.6, 0.75, 0.9),
        "image_size": (128, 192, 224, 320, 448),
        "batch": (1, 2, 4, 8, 16, 32, 64),
    }
    curves: dict[str, list[dict[str, float]]] = {}
    for axis, values in sweeps.items():
        table = Table(title=f"encoder of atto against {axis}, {args.threads} threads")
        for column in (axis, "ms an image", "visible patches", "ms a visible patch"):
            table.add_column(column)
        curves[axis] = []
        for value in values:
            at = usual | {axis: value}
            size = int(at["image_size"])
            architecture = Architecture(name=ATTO, image_size=size)
            b = int(at["batch"])
            images, visible = batch_of(b, size, architecture.patches, at["ratio"])
            (times,) = in_turn((partial(step, Encoder(architecture), images, visible),), args.runs)
            image = 1e3 * statistics.median(times) / b
            v = int(visible[0].sum())
            curves[axis].append({axis: value, "ms_image": image, "ms_patch": image / v})
            table.add_row(f"{value:g}", f"{image:.2f}", str(v), f"{image / v:.3f}")
        console.print(table)
    return curves


def draw(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draw the three curves of `growth`, the time for a visible patch, as a PNG file."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3), sharey=True)
    for panel, (axis, points) in zip(panels, curves.items(), strict=True):
        panel.plot([p[axis] for p in points], [p["ms_patch"] for p in points], marker="o")
        panel.set_xlabel(axis)
    panels[0].set(ylabel="ms a visible patch", ylim=(0, None))  # shared: once all are drawn
    figure.tight_layout()
    figure.savefig(path)


def main(argv: Sequence[str]) -> None:
    """Measure what the command line says.

    Raises:
        ValueError: `--only` is none of the keys.
    """
    args = tyro.cli(Benchmark, args=argv, description=__doc__)
    if args.what == "data":
        args = replace(args, threads=1)
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = growth(args) if args.what == "growth" else compare(args)
    if args.what == "growth" and args.plot is not None:
        draw(result, args.plot)
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    run_program(main)
