"""The content of a file or a directory of weights, by what is in it and not by its suffix."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from fcmae.run.json_files import as_dataclass, field_of, read_json
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
    # eight bytes of length, then JSON; a pickle and a zip archive have no brace there
    for first, what in OTHERS.items():
        if start.lstrip().startswith(first) and start[8:9] != b"{":
            raise ValueError(f"{path} is {what}")
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
    for part in parts_of(index):
        for found in read_file(part).sets.values():
            tensors |= found
    return Content(sets=state_dicts(tensors), header=told.header, told=told)


def parts_of(index: Path) -> list[Path]:
    """The files that an index of weights in parts names.

    Raises:
        ValueError: the index is damaged, or names files in other directories.
    """
    try:
        named = set(field_of(read_json(index, dict), "weight_map", dict[str, str]).values())
        if elsewhere := sorted(name for name in named if name != Path(name).name):
            raise ValueError(f"it names {elsewhere[0]!r}, which is no file beside it")
    except ValueError as error:
        raise ValueError(f"{index} is no index of weights in parts ({error})") from error
    return [index.parent / name for name in sorted(named)]


def told_by(directory: Path) -> Told:
    """Read what timm, transformers and OpenCLIP write beside weights.

    Raises:
        ValueError: a file is damaged.
    """
    try:
        return as_dataclass(Told, said_in(directory))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{directory} has a damaged file beside the weights ({error}): restore it, or give the"
            " file of weights alone"
        ) from error


def said_in(directory: Path) -> dict[str, Any]:
    """What the files beside weights say, by the names of `Told`, as it is in them.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: a file has another structure.
    """
    config, clip, processor = (
        read_json(directory / name, dict) if (directory / name).is_file() else dict[str, Any]()
        for name in ("config.json", "open_clip_config.json", "preprocessor_config.json")
    )
    if clip:
        shown = clip["preprocess_cfg"]
        size = clip["model_cfg"]["vision_cfg"]["image_size"]
        return {"image_size": size_of(size), "mean": shown["mean"], "std": shown["std"]}
    if "model_type" in config:
        size = processor.get("crop_size") or processor.get("size") or config.get("image_size")
        names = config.get("id2label", {})
        return {
            "header": config.get("fcmae", {}),
            "image_size": size_of(size),
            "mean": processor.get("image_mean") or [],
            "std": processor.get("image_std") or [],
            "names": [names[number] for number in sorted(names, key=int)],
        }
    timm = config.get("pretrained_cfg", config)
    return {
        "image_size": size_of(timm.get("input_size", [])[1:]),
        "mean": timm.get("mean") or [],
        "std": timm.get("std") or [],
        "names": config.get("label_names") or timm.get("label_names") or [],
        "licence": timm.get("license"),
    }


def size_of(size: Any) -> Any:
    """An image size in any of the forms that these programs give it; None without one."""
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        return edge if edge else [size["height"], size["width"]]
    if isinstance(size, list):
        return [size[0], size[-1]] if size else None
    return size or None
