"""A command of fcmae with another encoder, for ablations alone: dense, or without GRN.

    altered zeros pretrain scripts/recipes/demo.yaml --run.dir DIR

It is the command as it is, loop and all: PyTorch tells of each part that a model gets, and takes
another one in its place.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils.hooks import RemovableHandle

from fcmae import FCMAE
from fcmae.cli import start
from fcmae.encoder import Encoder
from fcmae.sparse.grn_mlp import GlobalResponseNorm
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


def altered(kind: str) -> RemovableHandle:
    """Let models that are made in the context of the result have an altered encoder.

    Its initial weights are those of the unaltered one.

    Args:
        kind: zeros or tokens, what a dense encoder sees at hidden patches; or no_grn.
    """
    return register_module_module_registration_hook(partial(in_place_of, kind))


def in_place_of(kind: str, model: nn.Module, name: str, part: nn.Module) -> Any:
    """What a model gets in place of a part: None for the part itself.

    Args:
        kind: see `altered`.
        model: that gets the part.
        name: of the part in it.
        part: an encoder that is pretrained, or GRN of the network that is fine-tuned.
    """
    if isinstance(model, FCMAE) and isinstance(part, Encoder):
        if kind != "no_grn":
            return DenseEncoder(part, tokens=kind == "tokens")
        for module in part.modules():
            if isinstance(module, GlobalResponseNorm):
                hold(module)
    elif kind == "no_grn" and name == "grn" and not isinstance(part, GlobalResponseNorm):
        hold(part)  # timm's; of ours, the decoder keeps the one that it has
    return None


def hold(norm: nn.Module) -> None:
    """Keep GRN at the zeros that it begins with, at which it passes its input on unchanged.

    GRN(x) = gamma N(x) x + beta + x (ConvNeXt V2, equation 3), so that gamma = beta = 0 is a
    network without it, under the same names.
    """
    for parameter in norm.parameters():
        parameter.register_hook(torch.zeros_like)
