"""The content of a file or a directory of weights, by what is in it and not by its suffix."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from fcmae.weights.onnx_files import read_onnx
from fcmae.weights.pt_files import read_pt
from fcmae.weights.safetensors_files import read_safetensors
from fcmae.weights.wrappings import state_dicts

# files of weights in a directory, the first that is there being read; or their index, in parts
WHOLE = ("model.safetensors", "open_clip_model.safetensors")
WHOLE += ("pytorch_model.bin", "open_clip_pytorch_model.bin")
PARTS = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# the first bytes of what is often there in place of weights, and what it is
OTHERS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the weights: run git lfs pull",
    b"<": "a page, not weights: download the file itself, on the hub from /resolve/, not /blob/",
}


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the files beside weights tell of them; empty where they do not."""

    header: dict[str, str] = field(default_factory=dict)
    """Our header, in a directory that we wrote for transformers."""
    image_size: int | tuple[int, int] | None = None
    """Side, or height and width, of the images in pixels."""
    mean: tuple[float, ...] = ()
    """Mean of each channel, on the scale 0 to 1."""
    std: tuple[float, ...] = ()
    """Standard deviation of each channel."""
    names: tuple[str, ...] = ()
    """Names of the classes; they may be those of a model without a classifier, too."""
    licence: str | None = None
    """The licence, as timm names it."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """State dicts, and what is told of them."""

    sets: dict[str, dict[str, Tensor]]
    """The state dicts, by the path of their keys in the file."""
    header: dict[str, str]
    """The texts in the file, among which our metadata may be."""
    told: Told = field(default_factory=Told)
    """What the files beside it tell."""
    notes: tuple[str, ...] = ()
    """Sentences on what the file has lost of the weights that were saved."""


def read_file(path: Path) -> Content:
    """Read a file that holds weights: safetensors or PyTorch's of any suffix, or an ONNX of ours.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is of another kind or damaged.
        ModuleNotFoundError: the file is an ONNX, and the extra `export` is missing.
    """
    if path.suffix == ".onnx":
        tensors, header, notes = read_onnx(path)
        return Content(sets=state_dicts(tensors), header=header, notes=notes)
    with path.open("rb") as file:
        start = file.read(64)
    for first, what in OTHERS.items():
        if start.lstrip().startswith(first):
            raise ValueError(f"{path} is {what}")
    # eight bytes of length, then JSON; a pickle and a zip archive have no brace there
    if start[8:9] != b"{" and path.suffix != ".safetensors":
        sets, header = read_pt(path)
        return Content(sets=sets, header=header)
    try:
        tensors, header = read_safetensors(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    return Content(sets=state_dicts(tensors), header=header)


def holds_weights(directory: Path) -> bool:
    """Whether a directory has a file of weights, or an index of them, under one of their names."""
    return any((directory / name).is_file() for name in WHOLE + PARTS)


def read_directory(directory: Path) -> Content:
    """Read a directory of the hub, of timm, transformers or OpenCLIP, in one file or in parts.

    Raises:
        OSError: a file cannot be read, or a part is missing.
        ValueError: a file is damaged.
    """
    told = told_by(directory)
    whole = [directory / name for name in WHOLE if (directory / name).is_file()]
    if whole:
        content = read_file(whole[0])
        return Content(sets=content.sets, header=content.header | told.header, told=told)
    index = next(directory / name for name in PARTS if (directory / name).is_file())
    tensors = dict[str, Tensor]()
    for part in sorted(set(read_json(index)["weight_map"].values())):
        for found in read_file(directory / part).sets.values():
            tensors |= found
    return Content(sets=state_dicts(tensors), header=told.header, told=told)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, which is empty if there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def told_by(directory: Path) -> Told:
    """Read what timm, transformers and OpenCLIP write beside weights.

    Raises:
        ValueError: a file is damaged.
    """
    config = read_json(directory / "config.json")
    clip = read_json(directory / "open_clip_config.json")
    if clip:
        shown = clip["preprocess_cfg"]
        size = clip["model_cfg"]["vision_cfg"]["image_size"]
        return Told(image_size=size_of(size), mean=tuple(shown["mean"]), std=tuple(shown["std"]))
    if "model_type" in config:
        shown = read_json(directory / "preprocessor_config.json")
        size = shown.get("crop_size") or shown.get("size") or config.get("image_size")
        names = config.get("id2label", {})
        return Told(
            header=config.get("fcmae", {}),
            image_size=size_of(size),
            mean=tuple(shown.get("image_mean", ())),
            std=tuple(shown.get("image_std", ())),
            names=tuple(names[number] for number in sorted(names, key=int)),
        )
    timm = config.get("pretrained_cfg", config)
    return Told(
        image_size=size_of(timm.get("input_size", ())[1:]),
        mean=tuple(timm.get("mean", ())),
        std=tuple(timm.get("std", ())),
        names=tuple(config.get("label_names") or timm.get("label_names") or ()),
        licence=timm.get("license"),
    )


def size_of(size: Any) -> int | tuple[int, int] | None:
    """Read an image size in any of the forms that these programs give it; None without one."""
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        return edge if edge else (size["height"], size["width"])
    if isinstance(size, list):
        return (size[0], size[-1]) if size else None
    return size or None
