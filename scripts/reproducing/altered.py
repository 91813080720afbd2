"""A command of fcmae with another encoder, for ablations alone: dense, or without GRN.

    altered zeros pretrain scripts/recipes/demo.yaml --run.dir DIR

It is the command as it is, loop and all, but for what it makes its encoder of.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

import fcmae.model
from fcmae.architecture import Architecture
from fcmae.cli import start
from fcmae.encoders import make_encoder
from fcmae.layers import initialise
from fcmae.visible_encoder import VisibleEncoder
from finetune.models import classifier
from scripts.reproducing.dense_encoder import DenseEncoder

KINDS = ("zeros", "tokens", "no_grn")


def main(argv: Sequence[str]) -> Any:
    """Run a command: `KIND COMMAND ARGUMENTS ...`.

    Raises:
        ValueError: there is no such kind; or see the command.
    """
    kind, command, *words = argv
    if kind not in KINDS:
        raise ValueError(f"no alteration is called {kind!r}; take one of {', '.join(KINDS)}")
    with altered(kind):
        return start(command, words)


@contextmanager
def altered(kind: str) -> Iterator[None]:
    """Let models have an altered encoder in the body.

    Args:
        kind: zeros or tokens, what a dense encoder sees at hidden patches; or no_grn.
    """
    with ExitStack() as changes:
        changes.enter_context(
            patch.object(fcmae.model, "make_encoder", partial(altered_encoder, kind))
        )
        if kind == "no_grn":  # of the fine-tuned network, too
            changes.enter_context(patch.object(classifier, "create", created_without_grn))
        yield


def altered_encoder(
    kind: str, architecture: Architecture, sparse: str, generator: torch.Generator | None = None
) -> VisibleEncoder:
    """Make an encoder, with the initial weights of the unaltered one; see `make_encoder`."""
    if kind == "no_grn":
        encoder = make_encoder(architecture, sparse, generator)
        hold_grn(encoder)
        return encoder
    encoder = DenseEncoder(architecture, tokens=kind == "tokens")
    initialise(encoder, generator)
    return encoder


CREATE = classifier.create


def created_without_grn(*args: Any, **options: Any) -> Any:
    """Make the model of a task, whose GRN stays what it is; see `classifier.create`."""
    model, metadata = CREATE(*args, **options)
    hold_grn(model)
    return model, metadata


def hold_grn(model: nn.Module) -> None:
    """Keep GRN at the zeros that it begins with, at which it passes its input on unchanged.

    GRN(x) = gamma N(x) x + beta + x (ConvNeXt V2, equation 3), so that gamma = beta = 0 is a
    network without it, under the same names.
    """
    for name, parameter in model.named_parameters():
        if ".grn." in name:
            parameter.register_hook(torch.zeros_like)
