"""Keys of one GPU, in the order in which they tell most, printed as they come.

Both sides of a ratio run in one process, in turn, each in its best mode: eager, compiled, or
compiled and replayed as CUDA graphs. Steps are in bf16 autocast and without the optimiser, but for
profiles, which have it.
"""

import statistics
import tempfile
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fcmae import FCMAE
from fcmae.run.roofline import flops_per_s, name_of
from fcmae.run.terminal import say
from scripts.bench.feeding import loader_share
from scripts.bench.first_step import fill, first_step
from scripts.bench.lab import (
    CUDNN,
    DENSE,
    GRAPHS,
    MAE,
    OURS,
    SIZES,
    Lab,
    Size,
    Timed,
    deterministic,
    telling,
)
from scripts.bench.layers import STAGE, depthwise
from scripts.bench.profiling import show_profile
from scripts.bench.rivals import Products
from scripts.bench.steps import step
from scripts.bench.timing import Work, in_turn

Key = Callable[[Lab], float]
COLD = "gpu_first_step_seconds_cold"
# parts of keys' names, and what they need compiled
RIVALS = {"": OURS, "mae_vit_s": MAE, "cudnn_over_gathered": CUDNN, "masked_dense": DENSE}


def ratio(lab: Lab, key: str, above: Work, below: Work) -> float:
    """Time two works in turn; the ratio of their medians, which is printed."""
    over, under = in_turn((above, below), lab.runs)
    medians = [statistics.median(times) for times in (over, under)]
    pairs = [a / b for a, b in zip(over, under, strict=True)]
    milliseconds = " / ".join(f"{1e3 * median:.2f}" for median in medians)
    say(f"  {key}: {milliseconds} ms, of pairs {min(pairs):.2f} to {max(pairs):.2f}", flush=True)
    return medians[0] / medians[1]


def over_ours(rival: str, size: Size, lab: Lab) -> float:
    """The time of a rival's step over that of ours."""
    theirs, ours = lab.best(rival, size), lab.best(OURS, size)
    return ratio(lab, f"{rival} {theirs.mode} / {OURS} {ours.mode}", theirs.work, ours.work)


def floor(size: Size, lab: Lab) -> float:
    """The time of a step's matrix products alone over that of the step."""
    ours = lab.best(OURS, size)
    model = ours.model
    assert isinstance(model, FCMAE)
    b = lab.batch(size)
    alone = Products(lab.name(size), model, b, dtype=torch.bfloat16, device=lab.device)
    return ratio(lab, f"products / {OURS} {ours.mode}", lab.synced(alone), ours.work)


def peak_memory(size: Size, lab: Lab) -> float:
    """The most memory that our step holds over that of the rival's, each in its best mode."""
    ours, theirs = (lab.best(side, size) for side in (OURS, DENSE))
    say(f"  {ours.peak / 1e9:.2f} / {theirs.peak / 1e9:.2f} GB", flush=True)
    return ours.peak / max(theirs.peak, 1)


def determined(size: Size, lab: Lab) -> float:
    """The time of a step under deterministic operations alone over that of a step without."""
    ours = lab.best(OURS, size)
    with deterministic():
        same = lab.time(OURS, size, ours.mode)

    def work() -> None:
        with deterministic():
            same.work()

    return ratio(lab, f"deterministic / not, {ours.mode}", work, ours.work)


def one_graph(size: Size, lab: Lab) -> float:
    """The time of a step that the device replays as CUDA graphs over that of launches.

    What it is below 1 is what the host's launches cost.

    Raises:
        ValueError: it cannot be recorded, as on a CPU.
    """
    modes = {timed.mode: timed for timed in lab.modes(OURS, size)}
    if GRAPHS not in modes or "compiled" not in modes:
        raise ValueError(f"only {', '.join(modes)} run")
    return ratio(lab, f"{GRAPHS} / compiled", modes[GRAPHS].work, modes["compiled"].work)


def layer(rival: str, side: int, lab: Lab) -> float:
    """The time of a rival's depthwise layer, forward and backward, over that of ours."""
    return ratio(lab, f"{rival} / ours", *depthwise(lab, rival, side))


def seconds_of_first_step(cache: Path, lab: Lab) -> float:
    """The first step of tiny, in a new process and compiled, with this cache."""
    return first_step(lab, OURS, "tiny", cache)


def keys(cache: Path) -> dict[str, Key]:
    """All keys, with what measures them, in their order.

    Args:
        cache: the folder of compiled code. If it is empty, the cold first step fills it for the
            steps that follow.
    """
    empty = not cache.exists() or not any(cache.iterdir())
    cold = cache if empty else Path(tempfile.mkdtemp())
    found: dict[str, Key] = {COLD: partial(seconds_of_first_step, cold)}
    for size, (_, b) in SIZES.items():
        of = f"{size}_b{b}"
        found[f"gpu_masked_dense_over_gathered_step_{of}"] = partial(over_ours, DENSE, size)
        found[f"gpu_peak_memory_gathered_over_masked_dense_{of}"] = partial(peak_memory, size)
        found[f"gpu_floor_over_gathered_step_{size}"] = partial(floor, size)
        if size == "tiny":
            found[f"gpu_mae_vit_s_over_fcmae_tiny_step_b{b}"] = partial(over_ours, MAE, size)
            found["gpu_deterministic_over_gathered_step_tiny"] = partial(determined, size)
        found[f"gpu_graph_over_launches_step_{size}"] = partial(one_graph, size)
        found[f"gpu_cudnn_over_gathered_step_{of}"] = partial(over_ours, CUDNN, size)
        if size == "atto":
            found["gpu_loader_share"] = loader_share
    for side in STAGE:
        for rival in ("cudnn", "warpconvnet"):
            found[f"gpu_depthwise_{rival}_over_ours_{side}"] = partial(layer, rival, side)
    found["gpu_first_step_seconds_warm"] = partial(seconds_of_first_step, cold)
    return found


def size_of(key: str) -> Size | None:
    """The size of the models that a key is about, or None for those that need none of them."""
    if key == "gpu_loader_share":
        return "atto"
    return next((size for size in SIZES if f"_{size}" in key and "first" not in key), None)


def profile_modes(lab: Lab, size: Size) -> None:
    """Print where the time of our step goes, with the optimiser, in each mode, once."""
    if size in lab.profiled:
        return
    lab.profiled.add(size)
    for timed in lab.modes(OURS, size):
        with telling(f"the profile of {size} {timed.mode}"):
            work = with_optimiser(lab, timed)
            (times,) = in_turn((work,), 3)
            title = f"{OURS} {size} b{lab.batch(size)} {timed.mode}, with AdamW"
            show_profile(title, work, statistics.median(times), lab.device)


def with_optimiser(lab: Lab, timed: Timed) -> Work:
    """Make a step of training, the optimiser's included."""
    optimizer = torch.optim.AdamW(timed.model.parameters(), lr=0.0, fused=True)

    def work() -> None:
        step(timed.called, timed.images, timed.visible, lab.autocast)
        optimizer.step()

    return lab.synced(work)


def speed_of_light(lab: Lab) -> dict[str, Any]:
    """What the device is, and what it reaches in one large product and one large copy."""
    source = torch.empty(2**20 if lab.dry else 2**30, device=lab.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    (times,) = in_turn((lab.synced(partial(target.copy_, source)),), 5)
    return {
        "device": name_of(lab.device),
        "torch": torch.__version__,
        "bf16_tflops": round(flops_per_s(lab.device, torch.bfloat16) / 1e12, 2),
        "copy_tb_s": round(2 * source.nbytes / statistics.median(times) / 1e12, 3),
    }


def to_compile(keys: Collection[str]) -> list[tuple[str, ...]]:
    """What is compiled for keys: side, size and flags, the dense ones late, apart from others."""
    found = list[tuple[str, ...]]()
    for word, side in RIVALS.items():
        for size in SIZES:
            if any(size_of(key) == size and word in key for key in keys):
                found.append((side, size))
    if any("deterministic" in key for key in keys):
        found.append((OURS, "tiny", "--deterministic"))
    if "gpu_loader_share" in keys:  # pretrain.py is deterministic
        found.append((OURS, "atto", "--deterministic"))
    return found


def measure(lab: Lab, *, only: str, cache: Path, profile: bool, jobs: int = 1) -> dict[str, Any]:
    """Measure the keys, and print each as it comes; what fails is named and passed over.

    Ctrl-C ends it with what there is.

    Args:
        lab: the device.
        only: parts of names, between commas: keys that have none of them are left out.
        cache: the folder of compiled code.
        profile: whether the steps of each size are profiled, too.
        jobs: the number of processes that compile at a time before models are timed; with one,
            each is compiled when it is needed.

    Returns:
        The number of each key, or None; with the device, and the steps in each mode.

    Raises:
        ValueError: no key has one of the parts.
    """
    parts = only.split(",")
    wanted = {k: work for k, work in keys(cache).items() if any(part in k for part in parts)}
    if not wanted:
        raise ValueError(f"--only {only} is in none of {', '.join(keys(cache))}")
    facts = speed_of_light(lab)
    say(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    result: dict[str, float | None] = dict.fromkeys(wanted)
    try:
        for key, work in wanted.items():
            if key != COLD and jobs > 1:
                fill(lab, cache, jobs, to_compile(wanted))
                jobs = 1
            if profile and lab.left > 0 and (size := size_of(key)) is not None:
                with telling(f"the profile of {size}"):
                    profile_modes(lab, size)
            if lab.left <= 0:
                say(f"{key}: no time left; --limit gives more", flush=True)
                continue
            with telling(key):
                result[key] = work(lab)
                say(f"{key} {result[key]:.3f}", flush=True)
    except KeyboardInterrupt:
        say("interrupted", flush=True)
    return {**result, **facts, "steps": lab.numbers}
