"""The rules by which a recipe is planned; the table in scripts/recipes/README.md has all of them.

What the log of that page measured is called measured there; the rest are the paper's values, or
rules of thumb, and say so. The functions are pure, so that each rule can be tested.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch

from fcmae.model_config import ModelConfig
from fcmae.run.options import Precision
from finetune.planning.facts import ImageFacts


@runtime_checkable
class Timed(Protocol):
    """A machine whose training steps can be timed, as `finetune.planning.machine.Machine`."""

    cores: int
    """Cores that the process may use."""
    device: torch.device
    """What the model trains on."""

    def seconds_per_image(self, config: ModelConfig, precision: Precision) -> float:
        """Time a training step of a model; seconds for an image."""
        ...

    def share_of_peak(self, config: ModelConfig, precision: Precision, seconds: float) -> float:
        """The share of the device's speed in a large matrix product that the step reaches."""
        ...


USABLE = 0.9  # share of the hours that goes into steps; the rest starts, saves and draws
SIDES = (224, 192, 160, 128)  # of images with patches of 32 px
FEW_PASSES = 50  # fewer over the data, and smaller images serve better
MANY_PASSES = 200  # so many, and a larger model can be afforded
MOST_PASSES = 1600  # the paper's longest run
GAIN = 1.15  # by which bf16 has to be faster than fp32 to be taken
PEAK = 2e-3  # learning rate of the demo's and ELPV's best runs, at any batch up to 256
LONG = 4  # times the shorter side, and few squares have a fifth of the area
STEPS = 5000  # a larger batch has to leave so many
MODELS = (  # the largest model for fewer images than this
    (5_000, "atto"),
    (20_000, "pico"),
    (100_000, "nano"),
    (500_000, "tiny"),
    (math.inf, "base"),
)
SIZES = ("atto", "femto", "pico", "nano", "tiny", "base")


@dataclass(frozen=True)
class Choice:
    """A field of a recipe, its value, and why it has that value."""

    field: str
    value: Any
    why: str


def choices(facts: ImageFacts, machine: Timed, *, hours: float) -> Iterator[Choice]:
    """Choose all fields of a recipe.

    Args:
        facts: What the images are like.
        machine: What the run is for.
        hours: Time for the pretraining.

    Raises:
        ValueError: The hours are not above 0.
    """
    if not 0 < hours < math.inf:
        raise ValueError(f"--hours {hours} must be above 0 and finite")
    device = machine.device.type
    model, precision, seconds = affordable(facts, machine, hours)
    passes = min(float(MOST_PASSES), passes_in(hours, facts.count, seconds))
    batch = batch_for(float(passes * facts.count), device)
    yield from of_pixels(facts)
    yield from of_crops(facts, model)
    yield from of_loading(facts, seconds, machine.cores)
    share = machine.share_of_peak(model, precision, seconds)
    yield from of_model(facts, model, seconds, passes, share)
    yield from of_length(facts, batch, passes, hours)
    yield Choice("precision", precision, why_precision(precision, device))
    yield from of_run(passes * facts.count / batch)


def passes_in(hours: float, count: int, seconds: float) -> float:
    """How often all images can be seen."""
    return USABLE * 3600 * hours / (count * seconds)


def base_model(facts: ImageFacts) -> ModelConfig:
    """The smallest model, with patches that the images' sides allow, and their channels."""
    short = facts.short_side
    if short < 64:
        stride, side = 1, max(16, short // 8 * 8)
    elif short < 128:
        stride, side = 2, short // 16 * 16
    else:
        stride, side = 4, min(SIDES[0], short // 32 * 32)
    return ModelConfig(
        name="convnextv2_atto",
        image_size=side,
        in_chans=facts.channels,
        stem_stride=stride,
        decoder_dim=256,
    )


def affordable(
    facts: ImageFacts, machine: Timed, hours: float
) -> tuple[ModelConfig, Precision, float]:
    """The largest images, and then the largest model, that the hours are enough for.

    Returns:
        The model, the faster precision, and the seconds for an image.
    """
    clock = machine.seconds_per_image
    model = base_model(facts)
    precise, short = clock(model, "fp32"), clock(model, "bf16")
    precision: Precision = "bf16" if precise > GAIN * short else "fp32"
    seconds = min(precise, short) if precision == "bf16" else precise
    for side in SIDES:
        few = passes_in(hours, facts.count, seconds) < FEW_PASSES
        if few and model.stem_stride == 4 and side < model.sides[0]:
            model = replace(model, image_size=side)
            seconds = clock(model, precision)
    largest = next(name for count, name in MODELS if facts.count < count)
    for size in SIZES[1 : SIZES.index(largest) + 1]:
        if passes_in(hours, facts.count, seconds) < 2 * MANY_PASSES:
            break  # the next one takes at least half as long again
        larger = replace(
            model,
            name=f"convnextv2_{size}",
            decoder_dim=256 if size in ("femto", "pico", "nano") else 512,
        )
        slower = clock(larger, precision)
        if passes_in(hours, facts.count, slower) < MANY_PASSES:
            break
        model, seconds = larger, slower
    return model, precision, seconds


def batch_for(images: float, device: str) -> int:
    """The largest batch, a power of two from 32 on, that leaves enough steps.

    Args:
        images: That the run sees in all, each as often as it is seen.
        device: The type of the device.
    """
    batch = 32
    while 2 * batch <= (256 if device == "cpu" else 1024) and images / (2 * batch) >= STEPS:
        batch *= 2
    return batch


def of_pixels(facts: ImageFacts) -> Iterator[Choice]:
    """How stored values become pixels."""
    if facts.depth is not None:
        kinds = " and ".join(facts.depth.types)
        extent = f"{facts.depth.low:g} to {facts.depth.high:g}"
        yield Choice("data.pixels", "float32", f"{kinds} images, of which 8 bits would lose levels")
        if facts.range is not None:
            yield Choice("data.range", list(facts.range), f"they use {extent}")
    if facts.nodata is not None:
        yield Choice("data.nodata", facts.nodata, "what maps store where nothing was measured")
    contrast = f"the data's own contrast: {' '.join(f'{x:.3g}' for x in facts.std)}"
    mean, std = ([], []) if facts.indexed else (rounded(facts.mean), rounded(facts.std))
    whose = "measured in the shards' index" if facts.indexed else "of the images looked at"
    yield Choice("data.mean", mean, whose)
    yield Choice("data.std", std, contrast)


def rounded(values: tuple[float, ...]) -> list[float]:
    """Values with four digits; 1 for a deviation of nothing, which would divide by 0."""
    return [float(f"{value:.4g}") for value in values]


def of_crops(facts: ImageFacts, model: ModelConfig) -> Iterator[Choice]:
    """Which parts of an image are seen."""
    if facts.long_side < LONG * facts.short_side:
        yield Choice("data.scale", [0.2, 1.0], "the paper's")
        return
    shown = model.sides[0] ** 2 / (facts.short_side * facts.long_side)
    why = f"a fifth of {facts.short_side} x {facts.long_side} px holds no square (rule of thumb)"
    yield Choice("data.scale", [min(0.2, float(f"{shown:.2g}")), 1.0], why)


def of_loading(facts: ImageFacts, seconds: float, cores: int) -> Iterator[Choice]:
    """How images are loaded; more than the cores can decode is said."""
    share = facts.decode_s / cores / seconds
    feed = facts.decode_s / seconds
    why = f"by the cores; decoding takes {1000 * facts.decode_s:.1f} ms an image, so that"
    why += f" {feed:.1f} of {cores} cores feed the device, and the"
    why += f" {'loader' if share > 1 else 'device'} holds the run"
    if share > 0.5:
        why += ", long beside a step: fcmae shards make --max-side 512 shrinks them once"
    yield Choice("data.workers", "auto", why)


def of_model(
    facts: ImageFacts, model: ModelConfig, seconds: float, passes: float, share: float
) -> Iterator[Choice]:
    """The network."""
    speed = f"{1 / seconds:.0f} images/s here, {share:.0%} of a large product's speed"
    speed += f", {passes:.0f} passes"
    yield Choice("model.name", model.name, f"{facts.count} images; {speed}")
    sides = f"sides of {facts.short_side} and {facts.long_side} px (medians)"
    yield Choice("model.image_size", model.sides[0], sides)
    patch = f"patches of {model.patch_size} px, {model.patches} an image"
    yield Choice("model.stem_stride", model.stem_stride, patch)
    yield Choice("model.in_chans", model.in_chans, "channels of the files")
    yield Choice("model.decoder_dim", model.decoder_dim, "256 up to nano, the paper's 512 beyond")
    if (model.stem_stride, model.in_chans) == (4, 3):
        why = "public weights to go on from (CC BY-NC 4.0), best where images are few"
        yield Choice("init.weights", f"timm:{model.name}.fcmae", why)


def of_length(facts: ImageFacts, batch: int, passes: float, hours: float) -> Iterator[Choice]:
    """Batch, length and learning rate."""
    steps = passes * facts.count / batch
    yield Choice("optim.batch_size", batch, f"{steps:.0f} steps")
    whole = f"{float(f'{passes:.3g}'):g}"
    longest = "the paper's longest" if passes == MOST_PASSES else f"what {hours:g} hours hold"
    yield Choice("optim.epochs", float(whole), longest)
    yield Choice("optim.warmup_epochs", None, "a tenth of any length")
    peak = max(PEAK, 1.5e-4 * batch / 256)
    yield Choice("optim.base_lr", float(f"{peak * 256 / batch:.3g}"), f"{peak:g} at this batch")


def why_precision(precision: Precision, device: str) -> str:
    """Why a precision was chosen."""
    if precision == "bf16":
        return f"faster than fp32 on this {device}, as timed"
    return f"bf16 is not faster on this {device}, as timed"


def of_run(steps: float) -> Iterator[Choice]:
    """When what is saved and drawn."""
    yield Choice("run.save_every", None, "by the clock")
    yield Choice("run.save_minutes", 10, "what a crash costs at most")
    yield Choice("run.picture_every", max(1, round(steps / 20)), "twenty pictures")
