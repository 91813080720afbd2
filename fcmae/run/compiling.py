"""Models compiled by `torch.compile`: the part that repeats, once for all that are alike.

A model is compiled before its first step, on a batch of the shape that all steps have, so that
nothing is compiled in the middle of a run, and a failure leaves the model as it is written.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from fcmae.run.terminal import cause_of
from fcmae.run.waiting import waiting

Granularity = Literal["block", "stage", "model"]
GRANULARITY: Granularity = "block"  # blocks of a stage share code: seconds for minutes of a model
CACHE = "TORCHINDUCTOR_CACHE_DIR"
WORTH = 100_000  # images that take a GPU longer than compiling for them
MOST = 64  # shapes of a block that get code of their own; past PyTorch's 8, blocks would be eager


def compiled(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    autocast: Callable[[], AbstractContextManager[object]],
    say: Callable[[str], object],
    *,
    deterministic: bool,
) -> bool:
    """Compile a model in place for training on inputs of these shapes.

    Args:
        model: on its device, and not yet distributed; its weights, gradients, buffers and random
            numbers stay as they are.
        inputs: of a step, with any values.
        autocast: makes the context in which forward passes run.
        say: prints a line where it fails.
        deterministic: whether code is chosen by rules alone, and never by timing it.

    Returns:
        Whether it is compiled. If that fails, every model of this process stays eager.
    """
    return tried(lambda: rehearse(model, inputs, autocast), model, say, deterministic=deterministic)


def tried(
    first: Callable[[], object],
    model: nn.Module,
    say: Callable[[str], object],
    *,
    deterministic: bool,
) -> bool:
    """Compile a model in place by a first call, or say why every model of this process stays eager.

    Args:
        first: calls the model.
        model: on its device.
        say: prints a line where it fails.
        deterministic: whether code is chosen by rules alone, and never by timing it.
    """
    try:
        with waiting("compiling (1 to 2 minutes the first time)"):
            compile_parts(model, deterministic=deterministic)
            first()
    except Exception as error:  # whatever PyTorch, a compiler or a driver has to complain of
        torch.compiler.set_stance("force_eager")
        say(f"not compiled, so that it runs as it is written, and slower ({cause_of(error)})")
        return False
    return True


def compile_parts(
    model: nn.Module, *, deterministic: bool, granularity: Granularity = GRANULARITY
) -> None:
    """Have parts of a model compiled when they are called first, each shape by itself.

    Args:
        model: whose parts are marked.
        deterministic: whether code is chosen by rules alone, and never by timing it.
        granularity: what is compiled.
    """
    torch._dynamo.config.recompile_limit = MOST
    # einops keeps a list of the types that it has met; code compiled while it grows is not used
    # again, and what rearranges its weights would be compiled a second time in the first step
    rearrange(nn.Parameter(torch.empty(1)), "i -> i")
    options = {"deterministic": deterministic}
    for part in parts_of(model, granularity):
        part.compile(dynamic=False, options=options)


def parts_of(model: nn.Module, granularity: Granularity = GRANULARITY) -> list[nn.Module]:
    """The parts of a model that are compiled; the model itself if nothing in it repeats."""
    if granularity == "model":
        return [model]
    return list(members(model, outermost=granularity == "stage")) or [model]


def members(root: nn.Module, *, outermost: bool) -> Iterator[nn.Module]:
    """Iterate over the parts of a network: the blocks, or the stages, and what goes with them.

    These are the members of lists of modules, and modules whose class says `compiled_whole`.

    Args:
        root: the network.
        outermost: whether of lists within members of others only the latter count.
    """
    for child in root.children():
        inside = list(members(child, outermost=outermost))
        if is_part(root, child) and (outermost or not inside):
            yield child
        else:
            yield from inside


def is_part(parent: nn.Module, child: nn.Module) -> bool:
    """Whether a module is a member of a list, and more than a layer, or says that it is a part."""
    of_torch = type(child).__module__.startswith("torch.nn.")
    in_list = isinstance(parent, nn.Sequential | nn.ModuleList)
    more = in_list and not of_torch and any(True for _ in child.children())
    return more or getattr(child, "compiled_whole", False)


def rehearse(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    autocast: Callable[[], AbstractContextManager[object]],
) -> None:
    """Run a forward and a backward pass in training mode that leave no trace in the model."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    with unchanged(model, inputs):
        with autocast():
            outputs = model(*inputs)
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        torch.autograd.grad(first, weights, torch.ones_like(first), allow_unused=True)


@contextmanager
def unchanged(model: nn.Module, inputs: tuple[Tensor, ...]) -> Iterator[None]:
    """Put buffers and random numbers back at the end; within, the model is in training mode.

    Args:
        model: on its device.
        inputs: on the same one.
    """
    model.train()
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    on_gpu = [x.device for x in inputs[:1] if x.is_cuda]
    try:
        with torch.random.fork_rng(on_gpu):
            yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def eager() -> AbstractContextManager[object]:
    """Make a context in which compiled models run as they are written.

    It is for batches of another shape than that of the steps, which would be compiled anew.
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes a second
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def keep_code(given: Path | None, run: Path) -> None:
    """Keep compiled code on disk for the next start; call it before an optimiser is made.

    PyTorch's optimisers import its compiler, which chooses a place where none is named.

    Args:
        given: where; None for the place that `TORCHINDUCTOR_CACHE_DIR` names, or else for
            `.compile` beside the directory of the run.
        run: the directory of the run.
    """
    if given is not None:
        os.environ[CACHE] = str(given.absolute())
    os.environ.setdefault(CACHE, str(run.absolute().parent / ".compile"))
