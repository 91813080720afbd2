"""The training images that a run keeps to look at them again and again: a file of its directory."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float32, Int64, UInt8
from safetensors.torch import save_file
from torch import Tensor

from data.config import DataConfig
from data.dataset import ShardImages
from data.fitting import Fitted
from data.order import Order
from data.pipeline import batch_loader
from data.shards.index import Shard
from data.shards.samples import ShardSamples
from data.targets import CLASSES, ClassText, to_integer
from data.transforms import Normalise
from data.values import Statistics
from fcmae.run.files import replacing
from fcmae.run.json_files import parse_json
from fcmae.sheet import as_rgb
from fcmae.weights.safetensors_files import read_safetensors
from finetune.labels.names import class_names

BATCH = 16  # images that a worker decodes at a time


@dataclass(frozen=True, kw_only=True)
class WatchedImages:
    """Images, as a model takes them and as people see them, and what is known of them."""

    inputs: UInt8[Tensor, "n c h w"] | Float32[Tensor, "n c h w"]
    """The centre of each, as evaluation has it, before it is normalised."""
    shown: UInt8[Tensor, "n 3 h w"]
    labels: Int64[Tensor, " n"]
    """The class of each; -1 for those without one."""
    keys: Sequence[str]
    classes: Sequence[str]
    """The names of the classes; none if nothing tells them."""

    def __len__(self) -> int:
        return len(self.inputs)

    def save(self, path: Path, patch_size: int) -> None:
        """Write them to a file.

        It has the tensors `images`, as people see them, and `labels`, and `inputs` where these are
        not the same as `images`. Entries of its header are JSON: keys, classes, patch_size.

        Raises:
            OSError: the file cannot be written.
        """
        tensors = {"images": self.shown, "labels": self.labels}
        if self.inputs is not self.shown:
            tensors["inputs"] = self.inputs
        header = {"keys": self.keys, "classes": self.classes, "patch_size": patch_size}
        save_described(path, tensors, header)

    @classmethod
    def load(cls, path: Path) -> "WatchedImages":
        """Read the file that `save` writes.

        Raises:
            OSError: it cannot be read.
            SafetensorError, KeyError, ValueError: it is damaged.
        """
        tensors, header = read_safetensors(path)
        keys, classes = (parse_json(header[name], name, list) for name in ("keys", "classes"))
        shown, labels = tensors["images"], tensors["labels"]
        inputs = tensors.get("inputs", shown)
        if not 0 < len(inputs) == len(shown) == len(labels) == len(keys):
            raise ValueError("its numbers of images, labels and keys differ")
        return cls(inputs=inputs, shown=shown, labels=labels, keys=keys, classes=classes)


def read_watched(
    shards: Sequence[Shard],
    config: DataConfig,
    order: Order,
    count: int,
    *,
    size: tuple[int, int],
    in_chans: int,
) -> WatchedImages:
    """Read the first samples of the first pass over the data, in their order.

    They are of shards that the run needs first, so that nothing else has to be fetched. Those that
    cannot be read are left out.

    Args:
        shards: that hold the samples.
        config: how they are read.
        order: of the samples, which the seed determines.
        count: how many, if there are as many.
        size: height and width in pixels.
        in_chans: number of channels.

    Raises:
        OSError, ValueError: the shards or their names of classes cannot be read, or no sample.
    """
    samples = ShardSamples(shards, config.source)
    images = ShardImages(
        samples,
        size=size,
        in_chans=in_chans,
        pixels=config,
        statistics=Statistics(config.mean, config.std),
        crop=Fitted("crop", config.mean),
        target=ClassText(),
        image=config.image,
    )
    wanted = [order[position] for position in range(min(count, len(samples)))]
    batches = [wanted[i : i + BATCH] for i in range(0, len(wanted), BATCH)]
    inputs = list[Tensor]()
    labels = list[int]()
    keys = list[str]()
    for batch in batch_loader(images, batches, workers=config.workers):
        whole = batch["whole"].nonzero().flatten()
        inputs.append(batch["image"][whole])
        labels += [class_of(batch["label"][i]) for i in whole.tolist()]
        keys += [batch["key"][i] for i in whole.tolist()]
    together = torch.cat(inputs)
    if not len(together):
        raise ValueError(f"none of the {len(wanted)} samples can be read")
    return WatchedImages(
        inputs=together,
        shown=shown_of(together, config),
        labels=torch.tensor(labels),
        keys=keys,
        classes=class_names(samples),
    )


def class_of(text: str) -> int:
    """The number of the class that a member `.cls` tells; -1 where it is none."""
    number = to_integer(text)
    return number if number is not None and 0 <= number < CLASSES else -1


def shown_of(inputs: Tensor, config: DataConfig) -> UInt8[Tensor, "n 3 h w"]:
    """Images as people see them; the same tensor where they are red, green and blue in 8 bits."""
    in_chans = inputs.shape[1]
    if in_chans == 3 and inputs.dtype == torch.uint8:
        return inputs
    normalise = Normalise(config.mean, config.std, in_chans)
    return torch.cat([as_rgb(normalise.inverse(normalise(part))) for part in inputs.split(BATCH)])


def save_described(path: Path, tensors: dict[str, Tensor], header: Mapping[str, object]) -> None:
    """Write a safetensors file whose header has entries of JSON, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as partial:
        save_file(tensors, partial, {name: json.dumps(value) for name, value in header.items()})
