"""Training data held out for choosing hyper-parameters, by whole groups of related samples."""

from collections.abc import Iterator
from typing import Literal

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Int
from torch import Tensor

from finetune.frozen.features import Features


def splits(
    train: Features, share: float, seeds: int, accelerator: Accelerator
) -> Iterator[tuple[Features, Features, torch.Generator]]:
    """For each seed: what to fit, what to choose on, and the generator that drew them.

    A class whose groups are all held out counts as wrong there, for every candidate alike; it is
    named.

    Raises:
        ValueError: no seed, or see `hold_out`.
    """
    if seeds < 1:
        raise ValueError(f"seeds={seeds} must be at least 1")
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        fit, validation = hold_out(train, share, generator)
        lost = sorted(set(validation.y.tolist()) - set(fit.y.tolist()))
        if lost:
            accelerator.print(
                f"seed {seed}: all samples of classes {lost} are held out and will count as wrong;"
                " the choice is made on the others"
            )
        yield fit, validation, generator


def hold_out(
    train: Features, share: float, generator: torch.Generator
) -> tuple[Features, Features]:
    """Split off about `share` of the samples, by whole groups.

    Raises:
        ValueError: see `held_out`.
    """
    side = held_out(train.groups, share, generator)
    return train.take(~side), train.take(side)


def held_out(
    groups: Int[Tensor, " n"], share: float, generator: torch.Generator
) -> Bool[Tensor, " n"]:
    """Which samples are held out: about `share` of the groups, whole.

    Raises:
        ValueError: one side would be empty.
    """
    every = groups.unique()
    chosen = every[torch.randperm(len(every), generator=generator)[: round(share * len(every))]]
    side = torch.isin(groups, chosen)
    if side.all() or not side.any():
        raise ValueError(
            f"data.held_out={share} of {len(every)} groups leaves one side empty; choose another"
        )
    return side


def sides(
    groups: Int[Tensor, " n"], report_on: Literal["test", "held_out"], share: float, seed: int
) -> tuple[Int[Tensor, " k"], Int[Tensor, " m"] | None]:
    """Places of the training samples to learn from, and of those to report on in place of the test.

    Args:
        groups: of all training samples.
        report_on: test, for which all are learned from and none reported on, or held_out.
        share: of the groups to hold out.
        seed: of the choice.

    Raises:
        ValueError: holding a share out leaves one side empty.
    """
    places = torch.arange(len(groups))
    if report_on == "test":
        return places, None
    side = held_out(groups, share, torch.Generator().manual_seed(seed))
    return places[~side], places[side]
