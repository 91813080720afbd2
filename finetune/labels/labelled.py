"""The labelled samples that are learned from: their labels, and which of them are chosen."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.data import Dataset

from data.bad_samples import BrokenSamples
from data.decode import Pixels
from data.pipeline import ShardImages
from data.shards.sources import SourceConfig, is_remote


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Labelled shards."""

    train: tuple[str, ...]
    """Shards to learn from: paths or brace patterns."""
    test: tuple[str, ...]
    """Shards to report on, looked at once."""
    group: str = ""
    """Field of the json member: samples that share its value stay on one side when training data is
    held out. Name it where images are related (one patient, one module); empty: no groups."""
    held_out: float = 0.2
    """Share of the training data on which hyper-parameters are chosen."""
    batch_size: int = 128
    """Images at a time, on each process."""
    workers: int = 2
    """Processes that decode images, for each process."""
    max_bad_fraction: float = 0.01
    """Share of the samples that may be broken. They are left out, counted and named."""
    pixels: Pixels = "uint8"
    """As data.pixels of the pretraining."""
    source: SourceConfig = field(default_factory=SourceConfig)


class Chosen(Dataset[dict[str, Any]]):
    """Some of the samples, by (epoch, place among them).

    Args:
        images: all of the samples.
        chosen: which of them.
        replace: a broken one by the next of them that is not, in the order in which they are given,
            so that what was not chosen is never learned from; `broken` has its line.
    """

    def __init__(
        self, images: ShardImages, chosen: Int[Tensor, " n"], *, replace: bool = True
    ) -> None:
        self.images, self.chosen, self.replace = images, chosen.tolist(), replace

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        epoch, first = item
        broken = list[str]()
        for place in range(first, first + len(self)):
            found = self.images[(epoch, self.chosen[place % len(self)])]
            if not (found["broken"] and self.replace):
                return found if not broken else found | {"broken": "\n".join(broken)}
            broken.append(found["broken"])
        raise ValueError(f"none of the {len(self)} chosen samples can be read ({broken[0]})")

    def name(self, items: Sequence[tuple[int, int]]) -> list[str]:
        """`URL: sample 'KEY'` of each (epoch, place)."""
        return self.images.name((epoch, self.chosen[place]) for epoch, place in items)


def read_labels(images: ShardImages, bad: BrokenSamples) -> tuple[Tensor, Int[Tensor, " n"]]:
    """The labels of the samples that have one of their target's kind, and these samples.

    No image is decoded. Int[n] for classes, Float[n, k] otherwise.

    Raises:
        ValueError: a sample has no label, or too many have another kind.
    """
    labels, samples = [], []
    for sample in range(len(images)):
        shard, members = images.read(sample)
        named = f"{shard.url}: sample {members['__key__']!r}"
        try:
            label = torch.as_tensor(images.target(members))
        except ValueError as error:
            bad.add([f"{named}: {error}"])
            continue
        if (label < 0).all() or label.isnan().any():
            raise ValueError(
                f"{named} has no label; scripts/make_shards.py labels images by their sub-folders,"
                " --task.kind and --task.field say where labels stand"
            )
        labels.append(label)
        samples.append(sample)
    return torch.stack(labels), torch.tensor(samples)


def class_names(images: ShardImages) -> list[str]:
    """What classes.json beside the first shard names, as scripts/make_shards.py writes it."""
    url = images.shards[0].url
    file = Path(url).parent / "classes.json"
    return json.loads(file.read_text()) if not is_remote(url) and file.is_file() else []


def held_out(
    groups: Int[Tensor, " n"], share: float, generator: torch.Generator
) -> Bool[Tensor, " n"]:
    """Which samples are held out: about `share` of the groups, whole.

    Raises:
        ValueError: one side would be empty.
    """
    every = groups.unique()
    held = every[torch.randperm(len(every), generator=generator)[: round(share * len(every))]]
    side = torch.isin(groups, held)
    if side.all() or not side.any():
        raise ValueError(
            f"data.held_out={share} of {len(every)} groups leaves one side empty; choose another"
        )
    return side
