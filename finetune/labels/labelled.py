"""The labelled samples that are learned from: labels and groups, and which of them are chosen."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from data.bad_samples import BadSamples
from data.dataset import CLASS, ShardImages, next_whole
from data.making.cached import as_shards
from data.shards.addresses import directory_of, is_remote
from data.shards.index import Shard
from data.shards.patterns import expand
from data.shards.reading import open_shards
from data.shards.samples import ShardSamples
from data.targets import Target, as_integers, group_of, is_row, read_field, read_record
from fcmae.run.waiting import counted
from finetune.labels.config import InferenceConfig, LabelledData
from finetune.labels.names import numbers_of


@dataclass(frozen=True)
class Labelled:
    """The samples that have a label, as numbers of their shards' samples.

    Labels are Int[n] for classes, Float[n, k] otherwise; related samples have one group.
    """

    labels: Tensor
    samples: Int[Tensor, " n"]
    groups: Int[Tensor, " n"]


class Chosen(Dataset[dict[str, Any]]):
    """Some of the samples, by (epoch, place among them).

    Args:
        images: all of the samples.
        chosen: which of them.
        replace: a bad one by the next of them that is whole, in the order in which they are given,
            so that what was not chosen is never learned from; `bad` has those passed over.
    """

    def __init__(
        self, images: ShardImages, chosen: Int[Tensor, " n"], *, replace: bool = True
    ) -> None:
        self.images = images
        self.chosen = chosen.tolist()
        self.replace = replace

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        epoch, place = item
        if not self.replace:
            return self.images[(epoch, self.chosen[place])]
        places = [*range(place, len(self)), *range(place)]
        candidates = (self.images[(epoch, self.chosen[i])] for i in places)
        return next_whole(candidates, f"{len(self)} chosen samples")

    def name(self, sample: int) -> str:
        """`URL: sample 'KEY'` of a place."""
        return self.images.name(self.chosen[sample])


def read_labelled(samples: ShardSamples, target: Target, group: str, bad: BadSamples) -> Labelled:
    """The samples that have a label of their target's kind, each read once; no image is decoded.

    Args:
        samples: all that there are.
        target: what they are labelled with.
        group: field of the json member that related samples share; every sample is its own group
            without one.
        bad: takes in the samples whose label is of another kind, which are left out.

    Raises:
        OSError: a shard cannot be read.
        ValueError: a sample has no label or lacks the field, or too many have another kind.
    """
    labels = list[Tensor]()
    kept = list[int]()
    groups = list[str | None]()
    for sample in counted(range(len(samples)), "reading labels", len(samples), "samples"):
        members = samples.members(sample)
        try:
            label = torch.as_tensor(target(members))
            named = group_of(members, group) if group else None
        except ValueError as error:
            bad.add([samples.bad(sample, str(members["__key__"]), error)])
            continue
        if (label < 0).all() or label.isnan().any():
            raise ValueError(
                f"{samples.name(sample)} has no label; fcmae shards make gives images"
                " those of their sub-folders, --task.kind and --task.field say where labels stand"
            )
        labels.append(label)
        kept.append(sample)
        groups.append(named)
    return Labelled(torch.stack(labels), torch.tensor(kept), numbered(groups, samples, kept, group))


def read_classes(samples: ShardSamples, group: str, share: float) -> Int[Tensor, " n"] | None:
    """The classes of the samples that have one, to be checked before any image is decoded.

    None for shards on servers, which are read but once.

    Args:
        samples: all that there are.
        group: field of the json member that related samples share; empty for none.
        share: of the samples that may be broken. A broken one may lack its label and its group.

    Raises:
        OSError: a shard cannot be read.
        ValueError: more samples than may be broken lack a label, or the field.
    """
    if any(is_remote(shard.url) for shard in samples.shards):
        return None
    classes = list[int]()
    kept = list[int]()
    unlabelled = list[int]()
    groups = list[str | None]()
    for sample in counted(range(len(samples)), "reading labels", len(samples), "samples"):
        members = samples.members(sample)
        with suppress(ValueError):  # of another kind: the sample is broken
            label = CLASS(members)
            if label < 0:
                unlabelled.append(sample)
                continue
            groups.append(group_of(members, group) if group else "")
            classes.append(label)
            kept.append(sample)
    if len(unlabelled) > share * len(samples):
        raise without_label(samples.name(unlabelled[0]))
    if groups.count(None) > share * len(samples):
        numbered(groups, samples, kept, group)  # which names the first
    return torch.tensor(classes, dtype=torch.int64)


def without_label(name: str) -> ValueError:
    """Tell of a sample, described as `URL: sample 'KEY'`, that has no class."""
    return ValueError(
        f"{name} has no label (.cls); fcmae shards make gives images those of their sub-folders"
    )


def lists_rows(samples: ShardSamples, field: str, classes: int) -> bool:
    """Whether all lists in a json field have a zero or one for each class, not class numbers.

    Reading ends at the first list that is no such row, as is the case for class numbers.

    Raises:
        OSError: a shard cannot be read.
    """
    rows = 0
    for sample in counted(range(len(samples)), "reading labels", len(samples), "samples"):
        with suppress(ValueError):  # the member is no JSON, which `read_labelled` tells
            value = read_field(samples.members(sample), field)
            if value is not None and not is_row(as_integers(value), classes):
                return False
            rows += value is not None
    return rows > 0


def read_groups(samples: ShardSamples, chosen: Sequence[int], group: str) -> Int[Tensor, " n"]:
    """The groups of chosen samples by this json field; each is its own group without a field.

    Raises:
        OSError: a shard cannot be read.
        ValueError: a sample lacks the field, or its json member is damaged.
    """
    names = list[str | None]()
    for sample in counted(chosen if group else (), "reading groups", len(chosen), "samples"):
        try:
            names.append(group_of(samples.members(sample), group))
        except ValueError as error:
            raise ValueError(f"{samples.name(sample)}: {error}") from error
    return numbered(names, samples, chosen, group)


def numbered(
    names: Sequence[str | None], samples: ShardSamples, chosen: Sequence[int], group: str
) -> Int[Tensor, " n"]:
    """A number for each name of a group, in the order of the names.

    Args:
        names: of the groups of the chosen samples, None where one lacks the field.
        samples: all that there are.
        chosen: which of them have these names.
        group: the field; without one every sample is its own group.

    Raises:
        ValueError: a sample lacks the field.
    """
    if not group:
        return torch.arange(len(chosen))
    if None in names:
        sample = chosen[names.index(None)]
        fields = ", ".join(read_record(samples.members(sample))) or "none"
        raise ValueError(
            f"{samples.name(sample)} has no json field {group!r}; it has {fields}:"
            " correct --data.group"
        )
    return torch.from_numpy(np.unique(list(map(str, names)), return_inverse=True)[1])


def samples_of(spec: Sequence[str], config: InferenceConfig, verify: bool = True) -> ShardSamples:
    """The samples of shards, whose classes have the numbers that the training data give them.

    Args:
        spec: the shards, of the training or of the test.
        config: how they are read, and what the training data are.
        verify: compare them with their SHA-256.

    Raises:
        OSError, ValueError: see `data.shards.reading.open_shards` and `numbers_of`.
    """
    images = as_shards(spec, config.source, max_broken=config.max_bad_fraction)
    shards = open_shards(images, verify, config.source, config.image)
    labelled = isinstance(config, LabelledData)
    first = training_directory(config) if labelled else directory_of(shards[0].url)
    return ShardSamples(shards, config.source, numbers_of(shards, first, config.source))


def training_directory(data: LabelledData) -> str:
    """The directory of the first training shard, whose classes.json numbers and names the classes.

    Raises:
        OSError, ValueError: see `data.shards.addresses.expand`.
    """
    train = as_shards(data.train, data.source, max_broken=data.max_bad_fraction)
    return directory_of(expand(train)[0])


def check_apart(train: Sequence[Shard], test: Sequence[Shard]) -> None:
    """Check that no shard is both learned from and tested on, by its place and by its content.

    Raises:
        ValueError: a shard is.
    """
    learned = {name: shard.url for shard in train for name in identities(shard)}
    for shard in test:
        for name in identities(shard):
            if name in learned:
                raise ValueError(
                    f"{shard.url} is to be tested on, and {learned[name]}, which is the same shard,"
                    " is learned from: an answer that was learned tells nothing; give other shards"
                    " as --data.test"
                )


def identities(shard: Shard) -> tuple[str, ...]:
    """What tells a shard from others: where it lies, and its SHA-256 where that is known."""
    place = shard.url if is_remote(shard.url) else str(Path(shard.url).resolve())
    return (place, shard.sha256) if shard.sha256 else (place,)
