"""What systems cost: parameters, FLOPs as torch counts them, and time, on whole images and masked.

FLOPs are those of a forward pass of one image, two for each multiplication and addition; a
training step takes about three times as many. Of systems that are pretrained they are counted and
timed three times: the encoder on whole images, the encoder on the visible patches at a ratio of
0.6, and all of a step of pretraining at this ratio, with decoder and loss. All of it is measured on
the CPU.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from fcmae import FCMAE, draw_visible
from fcmae.run.files import write_json
from fcmae.run.json_files import read_json
from fcmae.run.waiting import counted
from finetune.lineage.config import LineageConfig
from finetune.lineage.systems import System
from finetune.models.classifier import create
from finetune.models.config import BackboneConfig, RandomConfig
from finetune.models.convnext_cpu import quicken

RATIO = 0.6  # of the masked steps
BATCH = 4  # images of the steps that are timed against the size


def measured_in(config: LineageConfig, system: System) -> Path:
    """The file that holds what was measured of a system."""
    return config.out / system.key / "costs.json"


def measure(config: LineageConfig, system: System) -> None:
    """Measure a system, unless it was measured at the same sizes before.

    Raises:
        OSError: the result cannot be written.
        ValueError: there is no such network, or it does not take images of these sizes.
    """
    path = measured_in(config, system)
    asked = {"sizes": list(config.sizes), "timed_runs": config.timed_runs}
    if path.is_file() and read_json(path, dict)["asked"] == asked:
        return
    stem = system.stem_stride or RandomConfig.stem_stride
    model = dense(system, config.image_size, config.in_chans, stem)
    images = torch.randn(config.batch_size, config.in_chans, config.image_size, config.image_size)
    runs = config.timed_runs
    result = {
        "asked": asked,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops": flops(model, images[:1]),
        "trained_per_s": per_second(partial(step, model.train(), images), len(images), runs),
        "seen_per_s": per_second(partial(see, model.eval(), images), len(images), runs),
        "growth": [
            row
            for size in counted(
                config.sizes, f"measuring {system.name}", len(config.sizes), "sizes"
            )
            for row in growth(system, size, runs)
        ],
    }
    write_json(path, result)


def growth(system: System, size: int, runs: int) -> list[dict[str, Any]]:
    """Measure a system with the stem of its paper on images of a size: whole ones, masked ones.

    Args:
        system: the network.
        size: side of the images in pixels.
        runs: timed steps; 0 times none.
    """
    images = torch.randn(BATCH, 3, size, size)
    steps: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
        "whole": (dense(system, size, 3, RandomConfig.stem_stride), (images,))
    }
    if system.encoder:
        model = FCMAE(name=system.encoder, image_size=size, ratio=RATIO)
        masked = (images, draw_visible(BATCH, model.n, RATIO))
        steps |= {"visible": (model.encoder, masked), "pretraining": (model, masked)}
    rows = list[dict[str, Any]]()
    for what, (model, inputs) in steps.items():
        rate = per_second(partial(step, model.train(), *inputs), BATCH, runs)
        count = flops(model, *(each[:1] for each in inputs))
        ms = None if rate is None else 1e3 / rate
        rows.append({"size": size, "what": what, "gflops": count / 1e9, "ms": ms})
    return rows


def dense(system: System, size: int, in_chans: int, stem_stride: int) -> nn.Module:
    """Make the network of a system for whole images, without a head.

    Args:
        system: the network.
        size: side of the images in pixels.
        in_chans: number of channels of the images.
        stem_stride: of networks that have a choice.
    """
    random = RandomConfig(image_size=size, in_chans=in_chans)
    if not system.backbone:
        random = replace(random, name=system.encoder)
    if system.stem_stride is not None:
        random = replace(random, stem_stride=stem_stride)
    config = BackboneConfig(backbone=system.backbone or None, random=random)
    model, _ = create(config, outputs=0, seed=0, say=lambda _: None)
    quicken(model)
    return model


def flops(model: nn.Module, *inputs: Tensor) -> int:
    """Count the floating-point operations of a forward pass."""
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=UNKNOWN) as counter:
        model.eval()(*inputs)
    return counter.get_total_flops()


def of_depthwise(
    x: torch.Size, weight: torch.Size, *_: object, out_shape: torch.Size, **__: object
) -> int:
    """Count those of `fcmae.sparse.depthwise_cpu.depthwise`, of the shapes of its tensors."""
    return 2 * math.prod(out_shape) * weight[-1] ** 2


def of_attention(
    query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object
) -> int:
    """Count those of torch's attention on a CPU, of the shapes of its tensors."""
    return sdpa_flop_count(query, key, value)


# what torch's counter does not know by itself
UNKNOWN: dict[Any, Callable[..., int]] = {
    torch.ops.fcmae.depthwise: of_depthwise,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: of_attention,
}


def step(model: nn.Module, *inputs: Tensor) -> None:
    """Compute a training step without the optimiser: forward, a loss, backward."""
    model.zero_grad()
    out = model(*inputs)
    loss = out[0] if isinstance(out, tuple) else out.square().mean()
    loss.backward()


@torch.inference_mode()
def see(model: nn.Module, images: Tensor) -> None:
    """Compute a forward pass without gradients."""
    model(images)


def per_second(work: Callable[[], object], images: int, runs: int) -> float | None:
    """Measure how many images a second some work takes, by the median of its runs after one.

    Args:
        work: on so many images.
        images: of one run.
        runs: how many are timed; 0 measures nothing, which is None.
    """
    if not runs:
        return None
    times = list[float]()
    for _ in range(1 + runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return images / statistics.median(times[1:])
