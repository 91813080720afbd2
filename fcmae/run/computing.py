"""How the steps of a run are computed on its device: precision, compiled or not, deterministic."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, TypeVar

import torch

from fcmae.run.options import ComputeConfig, Precision

C = TypeVar("C", bound=ComputeConfig)
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # of cuBLAS, read with the first product


def accelerator_or_cpu() -> torch.device:
    """The accelerator that torch sees, such as a GPU; where it sees none, the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def settled(config: C, device: torch.device, *, compiles: bool, strict: bool) -> C:
    """Choose what a config leaves to the device, and set PyTorch up for it.

    With `precision` auto, what stays in float32 on a GPU is multiplied in TF32.

    Args:
        config: of the program.
        device: that the model trains on.
        compiles: whether the model can be compiled.
        strict: whether an operation that has no deterministic implementation is an error, where the
            config asks for these; otherwise PyTorch warns of it.

    Returns:
        The config without `auto`.
    """
    on_gpu = device.type == "cuda"
    if on_gpu and config.precision == "auto":
        torch.set_float32_matmul_precision("high")
    only_deterministic(config.deterministic, strict=strict)
    return replace(
        config,
        precision=precision_on(device, config.precision),
        compile=on_gpu and compiles if config.compile == "auto" else config.compile,
    )


def precision_on(device: torch.device, wanted: Precision | Literal["auto"]) -> Precision:
    """The precision that is wanted; for auto bf16 on a GPU that computes in it, else fp32."""
    if wanted != "auto":
        return wanted
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if native else "fp32"


def only_deterministic(wanted: bool, *, strict: bool) -> None:
    """Let PyTorch take deterministic operations alone, or any.

    Two runs are then equal to the last bit on one kind of GPU. It has to be called before the first
    matrix product on one, since cuBLAS reads its variable then.

    Args:
        wanted: whether to.
        strict: whether an operation that has no deterministic implementation is an error.
    """
    if wanted:
        os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(wanted, warn_only=not strict)
    # nothing reads what it would fill
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def any_operations() -> Iterator[None]:
    """Allow operations that are not deterministic on every device, for what runs on the CPU.

    All that counts and sorts is deterministic there. Libraries that are told to be so take other
    ways, which may need memory by the product of samples and classes squared (torchmetrics does).
    """
    wanted = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(wanted, warn_only=warns)
