"""Reading safetensors files: tensors, the header, and our metadata in it."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from torch import Tensor

from fcmae.weights.finite import refuse_not_finite
from fcmae.weights.metadata import HEADER, Metadata


def extra_part(header: Mapping[str, str]) -> dict[str, str]:
    """Take what a header of our files holds in addition to the metadata."""
    return {key: value for key, value in header.items() if key not in (HEADER, "format")}


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the header of a safetensors file; without a header, it is empty.

    Raises:
        OSError: the file cannot be read.
        SafetensorError: the file is damaged.
    """
    with cast("Any", safe_open(path, framework="pt")) as file:
        return tensors_of(file), file.metadata() or {}


def tensors_of(file: Any) -> dict[str, Tensor]:
    """Read all tensors of an open safetensors file."""
    return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping


@contextmanager
def open_converted(path: Path) -> Generator[tuple[Any, Metadata, dict[str, str]]]:
    """Open a file of weights that were converted to timm's names.

    The programs that call it want a head, too: the errors name what makes files that have one.

    Yields:
        The open file, its metadata, and what else its header holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file was not written by this project.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"weights {path} do not exist; make them with fcmae finetune, or fcmae segment"
        )
    try:
        file: Any = safe_open(path, framework="pt")
        header: dict[str, str] = file.metadata() or {}
        metadata = Metadata.of_json(header[HEADER])
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} has no header of fine-tuned weights ({error}); make it with fcmae finetune, or"
            " fcmae segment"
        ) from error
    with file:
        yield file, metadata, extra_part(header)


def read_metadata(path: Path) -> Metadata:
    """Read the metadata of weights that were converted to timm's names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file was not written by this project.
    """
    with open_converted(path) as (_, metadata, _):
        return metadata


def read_converted(path: Path) -> tuple[dict[str, Tensor], Metadata, dict[str, str]]:
    """Read weights that were converted to timm's names: tensors, metadata, the rest of the header.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file was not written by this project, or has values that are not finite.
    """
    with open_converted(path) as (file, metadata, extra_header):
        tensors = tensors_of(file)
    refuse_not_finite(tensors, path, buffers=True)
    return tensors, metadata, extra_header
