"""Files of watched images, as training keeps them, with what a test wants in them."""

import io
import json
from base64 import b64decode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

STRIDES = (1, 2, 4, 8)
SIDE = 32


def photographs(count: int, side: int = SIDE) -> np.ndarray:
    """Different pictures, `[n, 3, h, w]`: noise around a colour."""
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 200, (count, 3, 1, 1))
    return (colours + rng.integers(0, 40, (count, 3, side, side))).astype(np.uint8)


def write_images(
    run: Path,
    pixels: np.ndarray,
    labels: Sequence[int],
    classes: Sequence[str] = (),
    keys: Sequence[str] | None = None,
) -> None:
    """Write the images of a run, by default with the keys key0, key1 and so on."""
    (run / "watched").mkdir(parents=True, exist_ok=True)
    named = keys or [f"key{i}" for i in range(len(pixels))]
    told = {"keys": list(named), "classes": list(classes), "patch_size": 8}
    save_file(
        {"images": pixels, "labels": np.array(labels, np.int64)},
        run / "watched" / "images.safetensors",
        as_header(told),
    )


def write_step(run: Path, step: int, tensors: Mapping[str, np.ndarray]) -> Path:
    """Write the file of a step."""
    path = run / "watched" / f"step_{step:07d}.safetensors"
    told = {"step": step, "samples_seen": 8 * step, "strides": STRIDES}
    save_file(dict(tensors), path, as_header(told))
    return path


def as_header(values: Mapping[str, Any]) -> dict[str, str]:
    """The header of a file: each value as JSON, beside the entry that safetensors asks for."""
    return {"format": "pt"} | {name: json.dumps(value) for name, value in values.items()}


def views(pixels: np.ndarray, step: int) -> dict[str, np.ndarray]:
    """Reconstructions of the first images, darker at earlier steps."""
    first = pixels[:8]
    faded = (first * ((step + 1) / (step + 2))).astype(np.uint8)
    return {"visible": first // 2, "prediction": faded, "pasted": faded // 2 + first // 2}


def peaks(stage: int, channels: Sequence[int], count: int, at: int = 0) -> dict[str, np.ndarray]:
    """Places that excite channels most: one in each of `count` images, at row and column `at`."""
    shape = (len(channels), count)
    places = np.full(shape, at, np.int64)
    return {
        f"stage{stage}.channels": np.array(channels, np.int64),
        f"stage{stage}.images": np.broadcast_to(np.arange(count), shape).copy(),
        f"stage{stage}.rows": places,
        f"stage{stage}.columns": places.copy(),
        f"stage{stage}.values": np.linspace(2, 1, count, dtype=np.float32)
        .repeat(len(channels))
        .reshape(count, -1)
        .T.copy(),
    }


def decoded(uri: str) -> np.ndarray:
    """The pixels `[3, h, w]` of a data URI."""
    picture = Image.open(io.BytesIO(b64decode(uri.removeprefix("data:image/webp;base64,"))))
    return np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0)
