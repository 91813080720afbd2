"""What the masks of shards hold, counted before training: each class of every pixel."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Int
from torch import Tensor

from data.bad_samples import BadSample, BadSamples
from data.config import IGNORED
from data.decode import encoded_image, open_image
from data.pixel_labels import VALUES, MaskTarget, check_size
from data.shards.samples import ShardSamples
from fcmae.run.terminal import told_apart
from finetune.labels.config import InferenceConfig


def check_masks(
    samples: ShardSamples,
    target: MaskTarget,
    names: Sequence[str],
    config: InferenceConfig,
    accelerator: Accelerator,
) -> None:
    """Count the pixels of each class in all masks, and name the classes that none has.

    Args:
        samples: whose masks are looked at.
        target: how they are read.
        names: of the classes.
        config: how images are read, and the share of the samples that may have no usable mask.
        accelerator: of the processes, which share the work; each has to call it.

    Raises:
        OSError: a shard cannot be read.
        ValueError: too many masks cannot be used, or all pixels are of one class.
    """
    mine = range(accelerator.process_index, len(samples), accelerator.num_processes)
    pixels = torch.zeros(VALUES, dtype=torch.long)
    bad = list[BadSample]()
    with ThreadPoolExecutor() as pool:  # reading and decoding release the interpreter lock
        for found in pool.map(partial(count_pixels, samples, target, config.image), mine):
            if isinstance(found, BadSample):
                bad.append(found)
            else:
                pixels += found
    BadSamples(len(samples), config.max_bad_fraction).add(gather_object(bad))
    pixels = torch.stack(gather_object([pixels])).sum(0)
    where = f"{samples.shards[0].url}{' and the others' if len(samples.shards) > 1 else ''}"
    told = told_apart(names)
    present = [name for name, count in zip(told, pixels.tolist(), strict=False) if count]
    ignored = float(pixels[IGNORED] / pixels.sum())
    beside = f", and {ignored:.1%} are {IGNORED} and ignored" if ignored else ""
    if len(present) < 2:
        way_out = "add masks that have others"
        if ignored:
            both = f"0 {IGNORED}"
            way_out = f"where the values {both} stand for two classes, give --mask_values {both}"
        raise ValueError(
            f"the masks of {where} have pixels of class {present[0] if present else 'none'}"
            f" alone{beside}: there is nothing to tell apart; {way_out}"
        )
    absent = [name for name, count in zip(told, pixels.tolist(), strict=False) if not count]
    if absent:
        accelerator.print(f"no pixel of {where} is of class {', '.join(absent)}{beside}")
    elif beside:
        accelerator.print(f"every class has pixels in {where}{beside}")


def count_pixels(
    samples: ShardSamples, target: MaskTarget, image: str, sample: int
) -> Int[Tensor, "256"] | BadSample:
    """How many pixels of a sample's mask are of each class; or why it cannot be used.

    Args:
        samples: all of them.
        target: how masks are read.
        image: the suffix of the image, see `data.decode.encoded_image`.
        sample: the number of this one.
    """
    members = samples.members(sample)
    try:
        mask = target(members)
        picture = open_image(*encoded_image(members, image))
        check_size(mask, picture.height, picture.width)
    except ValueError as error:
        return samples.bad(sample, str(members["__key__"]), error)
    return mask.flatten().bincount(minlength=VALUES)
