"""Writing a safetensors file whose bytes depend on nothing but tensors and header."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write tensors and a header, the same bytes each time.

    The library writes the entries of a header in an order that varies; here they are sorted.

    Args:
        path: the file.
        tensors: contiguous, none of them shared.
        header: entries of the header, without `format`.

    Raises:
        OSError: the file cannot be written.
    """
    save_file(dict(tensors), path, metadata={"format": "pt", **header})
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        content = json.loads(file.read(size))
        content["__metadata__"] = dict(sorted(content["__metadata__"].items()))
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size, path
        file.seek(8)
        file.write(text.ljust(size))
