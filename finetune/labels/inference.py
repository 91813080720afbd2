"""What a model says of every sample of shards: in order, once, by all processes together."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from data.bad_samples import BrokenSamples
from data.pipeline import Samples, eval_loader
from data.transforms import Normalise
from fcmae.weights.metadata import Metadata
from finetune.labels.labelled import LabelledData


@torch.no_grad()
def outputs_of(
    forward: Callable[[Tensor], Tensor],
    images: Samples,
    metadata: Metadata,
    data: LabelledData,
    accelerator: Accelerator,
) -> tuple[Float[Tensor, "n d"], Tensor, Bool[Tensor, " n"]]:
    """A row and a label for each sample, and which were whole; broken ones have no meaning.

    The processes share the work and each gets all of it, on the CPU.

    Raises:
        ValueError: too many broken samples.
    """
    world = accelerator.num_processes
    rows, labels, broken = [], [], list[str]()
    for x, batch in batches_of(images, metadata, data, accelerator):
        rows.append(forward(x).float().cpu())
        labels.append(batch["label"])
        broken += batch["broken"]
    order = torch.cat([torch.arange(r, len(images), world) for r in range(world)]).argsort()
    whole = [torch.tensor([not line for line in broken], dtype=torch.bool)]
    x, y, whole = (torch.cat(gather_object(part))[order] for part in (rows, labels, whole))
    count_broken(broken, images, data, accelerator)
    return x, y, whole


def batches_of(
    images: Samples, metadata: Metadata, data: LabelledData, accelerator: Accelerator
) -> Iterator[tuple[Float[Tensor, "b c h w"], dict[str, Any]]]:
    """The share of this process: normalised images on its device, and the batch they are of."""
    loader = eval_loader(
        images,
        batch_size=data.batch_size,
        workers=data.workers,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    normalise = Normalise(metadata.mean, metadata.std, metadata.in_chans).to(accelerator.device)
    quiet = not (accelerator.is_main_process and sys.stderr.isatty())
    for batch in tqdm(loader, unit="batch", disable=quiet):
        yield normalise(batch["image"].to(accelerator.device)), batch


def count_broken(
    broken: list[str], images: Samples, data: LabelledData, accelerator: Accelerator
) -> int:
    """Name the broken samples that the processes met, and count them.

    Raises:
        ValueError: too many.
    """
    bad = BrokenSamples(len(images), data.max_bad_fraction)
    for message in bad.add(gather_object(broken)):
        accelerator.print(f"skipped {message}")
    return len(bad.met)
