"""Plan a run: a recipe for your images and hours, or what a recipe needs of a cluster.

    fcmae plan photos/ --hours 4 --out mine.yaml
    fcmae plan imagenet --model.name convnextv2_tiny --nodes 4 --gpus 8 [--json]

The first form looks at a sample of the images, times a few steps here, and writes a recipe with a
reason beside each value; `fcmae plan --help` lists its flags. The second one computes what a run
will need, before a cluster is booked; `fcmae plan RECIPE --help` lists those.

Closed formulas; nothing is run and no model is made. W processes, one a GPU; a micro-batches a
step; P parameters; S = 4 P bytes of fp32 gradients; k, M and G are powers of 1000.

FLOPs: 2 a multiply-add of convolutions and linear layers; backward costs twice the forward pass,
but the images need no gradient. Layers run on visible sites alone, the depthwise convolution on the
whole grid, which is an upper bound: where its kernels for GPUs run, it takes visible sites alone,
too (`fcmae.sparse.gathered`). Norms, GELU and GRN are not counted: their time shows in `--tflops`,
a rate over whole steps.

Memory: bytes saved for backward, and fp32 weights, gradients and AdamW's two moments (16 P). DDP
holds gradients twice (4 P of buckets); FSDP2 has a W-th of all. `recomputing` is with gradient
checkpointing of each encoder stage (Chen et al. 2016, arXiv 1604.06174): the larger of what stands
after the forward pass and what stands while a stage is recomputed, for another forward pass of the
stages. What a layer needs while it works, the layers that FSDP2 has gathered, indices and the
allocator's losses come on top.

Network, sent by each process a step: DDP all-reduces gradients by a ring, 2 (W-1)/W S (Patarasuk
and Yuan 2009); FSDP2 gathers weights twice and scatters gradients once in each micro-batch,
3 a (W-1)/W S, all in fp32. A ring enters and leaves a node once, so all these bytes pass a node's
network once, whatever its number of GPUs.

Efficiency: E = a (F + B) / T, where F and B are the times of a micro-batch's forward and backward
pass at `tflops`, and G = (W-1)/W S / `network_gb_s` is that of a gather or scatter:

    DDP:   T = a (F + B) + max(2 G - B, 2 G min(1, 25 MiB / S))
    FSDP2: T = a (max(F, G) + max(B, 2 G))

DDP overlaps the all-reduce with the last micro-batch's backward pass, except for the last bucket of
25 MiB, which holds the first layers (Li et al. 2020, arXiv 2006.15704); FSDP2 overlaps everything
with the pass that it serves. Latency, stragglers and the optimiser's own time are not in it.

A contrastive term makes two views of an image, which is read once and decoded twice; its projector
counts as the decoder's, and each process projects and compares the views of all, in fp32.

Data: images/s and bytes/s that a node's loader has to deliver for that T, and the cores that it
keeps busy.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from inspect import cleandoc
from pathlib import Path

from data.config import DataConfig
from fcmae.run.config import parse
from fcmae.run.files import staged
from fcmae.run.options import Precision
from fcmae.run.program import run_program
from fcmae.run.ranges import Batch, Positive
from fcmae.run.recipes import recipe_of
from fcmae.run.tables import print_table
from fcmae.run.terminal import say
from fcmae.run.waiting import waiting
from finetune.planning.config import ImagesPlan
from finetune.planning.costs import contrast_part, decoder_part, encoder_parts, recomputing_bytes
from finetune.training.pretraining import PretrainConfig, PretrainRun

Numbers = dict[str, int | float]
BUCKET = 25 * 2**20  # bytes: DistributedDataParallel's bucket_cap_mb
# what is printed after a number, by the end of its name; the first that fits
UNITS = {"bytes_per_s": "B/s", "bytes": "B", "flops": "FLOP", "_per_s": "/s", "_s": "s", "": ""}


@dataclass(frozen=True, kw_only=True)
class PlanConfig(PretrainConfig):
    """A run and a cluster. The run is that of pretrain.py, so that each of its recipes serves:
    `model`, `optim.batch_size`, `optim.accumulate`, `optim.ema` and `precision` are read."""

    data: DataConfig = field(default_factory=lambda: DataConfig(train=()))
    run: PretrainRun = field(default_factory=lambda: PretrainRun(dir=Path("runs")))
    nodes: Batch = 1
    """Machines."""
    gpus: Batch = 8
    """GPUs of a machine, one process each."""
    tflops: Positive = 20.0
    """TFLOP/s that a GPU sustains over whole steps, not its peak. ConvNeXt Tiny trained at 794
    images/s in mixed precision on an RTX 3090 (timm issue 1747), which is 21."""
    network_gb_s: Positive = 25.0
    """GB/s that a node can send; of a single node, that its GPUs can send to each other."""
    image_kb: Positive = 110.0
    """Average size of an image file in kB; ImageNet's is 108."""
    image_ms: Positive = 1.0
    """Milliseconds that a core takes to read, decode and crop an image, as a dry run measures; a
    JPEG of 500 x 375 takes one."""
    json: bool = False
    """Print one JSON object as the last line."""


def check(config: PlanConfig) -> None:
    """Check what the plan reads.

    Raises:
        ValueError: a value out of range; the message names it, the rule and a way out.
    """
    config.model.check()
    if not config.model.is_convnext:
        raise ValueError(
            f"model.name={config.model.name} has other costs than the ConvNeXts whose equations"
            " these are; time a few steps of the run by --dry_run"
        )
    if config.model.decoder != "plain":
        raise ValueError(
            f"model.decoder={config.model.decoder} has other costs; take plain, or time a few steps"
            " of the run by --dry_run"
        )
    if config.model.sparse != "gathered":
        raise ValueError(f"model.sparse={config.model.sparse} has other costs; take gathered")
    batch = config.optim.batch_size
    parts = config.nodes * config.gpus * config.optim.accumulate
    if batch % parts:
        raise ValueError(
            f"optim.batch_size={batch} must be a multiple of nodes x gpus x optim.accumulate"
            f" = {config.nodes} x {config.gpus} x {config.optim.accumulate};"
            f" try {max(1, -(-batch // parts)) * parts}"
        )


def precision_of(config: PlanConfig) -> Precision:
    """The precision of the run on GPUs that compute in bf16."""
    return "bf16" if config.precision == "auto" else config.precision


def plan(config: PlanConfig) -> dict[str, Numbers]:
    """All figures by section, named with their units, by the equations at the top.

    Raises:
        ValueError: see `check`.
    """
    check(config)
    v = config.model.visible_patches
    n = config.model.patches
    size = 4 if precision_of(config) == "fp32" else 2
    world = config.nodes * config.gpus
    a = config.optim.accumulate
    batch = config.optim.batch_size
    contrast = config.model.contrast
    micro = contrast.views * batch // (world * a)
    stem, *stages = encoder_parts(config.model, micro, v, n, size)
    decoder = decoder_part(config.model, micro, v, n, size)
    behind = [
        decoder,
        *([contrast_part(config.model, micro, world)] if contrast.weight else []),
    ]
    parts = (stem, *stages, *behind)

    p = sum(part.parameters for part in parts)
    encoder = p - sum(part.parameters for part in behind)
    average = 4 * encoder if config.optim.ema is not None else 0
    queue = 4 * contrast.neighbours * contrast.dim if contrast.weight else 0
    forward = 2 * sum(part.macs for part in parts)
    backward = 2 * forward - 2 * stem.macs
    saved = sum(part.saved for part in parts)
    recomputing = recomputing_bytes(stem, stages, behind)

    once = 4 * p * (world - 1) / world  # bytes of a gather or a scatter
    g = once / (config.network_gb_s * 1e9)
    f, b = (flops / (config.tflops * 1e12) for flops in (forward, backward))
    exposed = max(2 * g - b, 2 * g * min(1, BUCKET / (4 * p)))
    # bytes of state, bytes sent, seconds a step
    ddp = ((16 + 4 * (world > 1)) * p + average + queue, 2 * once, a * (f + b) + exposed)
    fsdp2 = ((16 * p + average) / world + queue, 3 * a * once, a * (max(f, g) + max(b, 2 * g)))

    def way(state: float, sent: float, seconds: float) -> Numbers:
        images = batch / config.nodes / seconds
        return {
            "state_bytes": round(state),
            "memory_bytes": round(state) + saved,
            "memory_recomputing_bytes": round(state) + recomputing,
            "sent_bytes": round(sent),
            "step_s": seconds,
            "efficiency": a * (f + b) / seconds,
            "node_images_per_s": images,
            "node_read_bytes_per_s": 1000 * config.image_kb * images,
            "node_loader_cores": contrast.views * config.image_ms / 1000 * images,
        }

    return {
        "model": {
            "encoder_parameters": encoder,
            "decoder_parameters": p - encoder,
            "checkpoint_bytes": 12 * p + average + queue,
        },
        "step": {
            "global_flops": world * a * (forward + backward),
            "process_flops": a * (forward + backward),
            "recomputing_flops": 2 * a * sum(stage.macs for stage in stages),
        },
        "micro_batch": {
            "images": micro,
            "activation_bytes": saved,
            "activation_recomputing_bytes": recomputing,
        },
        "ddp": way(*ddp),
        "fsdp2": way(*fsdp2),
    }


def readable(name: str, value: float) -> str:
    """`1.23 GB` for `state_bytes`: the end of the name is the unit."""
    if name == "efficiency":
        return f"{value:.1%}"
    prefixes = iter(" kMGTPE")
    prefix = next(prefixes)
    while value >= 999.5:
        value /= 1000
        prefix = next(prefixes)
    unit = next(unit for end, unit in UNITS.items() if name.endswith(end))
    return f"{value:.3g} {prefix.strip()}{unit}"


def show(config: PlanConfig, figures: dict[str, Numbers]) -> None:
    """Print the figures as a table."""
    cluster = f"{config.nodes} x {config.gpus} GPUs, {precision_of(config)}"
    title = f"{config.model.name}, {config.optim.batch_size} images on {cluster}"
    rows = [
        (section, name, readable(name, value), "")
        for section in ("model", "step", "micro_batch")
        for name, value in figures[section].items()
    ]
    rows += [
        ("process", name, readable(name, value), readable(name, figures["fsdp2"][name]))
        for name, value in figures["ddp"].items()
    ]
    words = ([*(text.replace("_", " ") for text in row[:2]), *row[2:]] for row in rows)
    print_table(title, ["of a", "figure", "DDP", "FSDP2"], words)


def write_recipe(config: ImagesPlan) -> None:
    """Look at the images, time the machine, write the recipe, and print it.

    Raises:
        OSError: the images cannot be read, or the recipe cannot be written.
        ValueError: there are no images; or the hours are not above 0.
    """
    # here: torch takes seconds, and a help text needs none
    with waiting("importing PyTorch"):
        from finetune.planning.facts import look
        from finetune.planning.machine import Machine
        from finetune.planning.recipe import recipe_text
        from finetune.planning.rules import Choice, choices

    facts = look(config.images)
    machine = Machine()
    directory = config.dir or Path("runs") / config.out.stem
    chosen = [
        Choice("data.train", list(config.images), "what was looked at"),
        *choices(facts, machine, hours=config.hours),
        Choice("run.dir", str(directory), "checkpoints, metrics, pictures"),
    ]
    header = [
        f"Planned for {facts.count} images and {config.hours:g} hours on {machine}.",
        "",
        f"  fcmae pretrain {config.out}",
    ]
    text = recipe_text(chosen, header)
    with staged(config.out) as partial:
        partial.write_text(text, encoding="utf-8")
    say(*text.splitlines(), f"next: fcmae pretrain {config.out}")


def main(argv: Sequence[str]) -> None:
    """Write a recipe for images, or print the plan of a recipe.

    Raises:
        ValueError: there are no arguments; or see `write_recipe` and `plan`.
        OSError: see `write_recipe`.
    """
    if not argv:
        raise ValueError(
            "there is nothing to plan: give images and hours, as in fcmae plan photos/ --hours 4,"
            " or what a cluster is to run, as in fcmae plan imagenet --gpus 8"
        )
    first = argv[0]
    if first in ("-h", "--help") or (first[:1] not in ("", "-") and recipe_of(first) is None):
        write_recipe(parse(ImagesPlan, argv, description=cleandoc(str(ImagesPlan.__doc__))))
        return
    config = parse(PlanConfig, argv, description=str(__doc__))
    figures = plan(config)
    show(config, figures)
    if config.json:
        say(json.dumps(figures))


if __name__ == "__main__":
    run_program(main)
