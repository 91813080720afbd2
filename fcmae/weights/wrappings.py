"""Which tensors of a file are the encoder's: state dicts in containers, wrappers, averages."""

import re
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from fcmae.weights.recognition import encoders_in, recognise

Tensors = Mapping[str, Tensor]
# what torch puts into the middle of names: compilation, sharding and recomputation of single layers
INSIDE = re.compile(r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# a model that is an average of others over the steps, by a word of its name
AVERAGED = re.compile(r"(?<![a-z])(?:ema|teacher|swa|averaged)(?![a-z])")


def state_dicts(content: Mapping[str, Any], name: str = "") -> dict[str, dict[str, Tensor]]:
    """Find the state dicts in a file's content, by the dotted path of their keys.

    The content as a whole, whose path is empty, is one if there are tensors directly in it.

    Raises:
        ValueError: two tensors differ only in what torch puts into names.
    """
    found = dict[str, dict[str, Tensor]]()
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    own = {INSIDE.sub("", key): value for key, value in tensors.items()}
    if len(own) != len(tensors):
        raise ValueError(f"{len(tensors) - len(own)} tensors are there both compiled and not")
    if own:
        found[name] = own
    for key, value in content.items():
        if isinstance(value, Mapping):
            inner = f"{name}.{key}" if name else str(key)
            found |= state_dicts(cast("Mapping[str, Any]", value), inner)
    return found


def choose(sets: Mapping[str, Tensors], key: str | None) -> tuple[Tensors, list[str]]:
    """Choose the tensors of one encoder, with all that belongs to no other.

    Args:
        sets: the state dicts of a file, as `state_dicts` finds them.
        key: dotted part of the name of the encoder, such as `model_ema` or `student.backbone`; by
            default the only encoder, or the only averaged one of several.

    Returns:
        The tensors, among which `recognise` finds one encoder, and sentences on what was chosen.

    Raises:
        ValueError: there is no encoder, none of this name, or several to choose from.
    """
    found = {
        f"{name}.{prefix}".strip("."): (name, prefix)
        for name, tensors in sets.items()
        for _, prefix in encoders_in(tensors)
    }
    if not found:
        recognise({name: tensor for tensors in sets.values() for name, tensor in tensors.items()})
    named = ", ".join(label or "the file itself" for label in found)
    fitting = list(found)
    if key is not None:
        fitting = [label for label in found if f".{key.strip('.')}." in f".{label}."]
        if not fitting:
            raise ValueError(f"key={key} is part of none of the encoders in it: {named}")
    if len(fitting) > 1:
        averaged = [label for label in fitting if AVERAGED.search(label)]
        if len(averaged) != 1:
            raise ValueError(
                f"{len(fitting)} encoders are in it: {named}; choose one with python -m"
                " fcmae.convert --key NAME, NAME being a part of its name"
            )
        fitting = averaged
    (label,) = fitting
    name, prefix = found[label]
    others = [p for n, p in found.values() if n == name and p != prefix]
    kept = dict[str, Tensor]()
    for full, tensor in sets[name].items():
        mine = full.startswith(prefix)
        other = any(full.startswith(p) for p in others if len(p) > len(prefix) or not mine)
        if (mine or key is None) and not other:
            kept[full] = tensor
    told = list[str]()
    if len(found) > 1:
        told.append(f"{label or 'the file itself'} of {len(found)} encoders in it ({named})")
    left_out = len(sets[name]) - len(kept)
    if key is not None and left_out:
        told.append(f"{left_out} tensors beside {label} left out")
    return kept, told
