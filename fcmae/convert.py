"""Encoder weights to what others load, from any file that holds some.

    python -m fcmae.convert runs/demo OUT.safetensors --to timm
    python -m fcmae.convert convnextv2_atto_1k_224_fcmae.pt OUT.safetensors --to timm
    python -m fcmae.convert OUT.safetensors OUT.pt --to official
    python -m fcmae.convert OUT.safetensors DIRECTORY --to hub

Sparse weights are dense weights. All targets have a final norm, which FCMAE does not train: it is
kept where the source has one and the identity elsewhere. A classifier is kept if there is one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import timm
import torch
import tyro
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from fcmae.encoder import SIZES
from fcmae.masking import patch_grid
from fcmae.run import checkpoint
from fcmae.run.config import parse, run_program
from fcmae.run.files import replacing
from fcmae.weights import hub
from fcmae.weights.files import (
    HEADER,
    Metadata,
    Weights,
    count_classes,
    header_for,
    header_of,
    read_weights,
    weight_names,
)
from fcmae.weights.weight_names import CLASSIFIER, FINAL_NORM, Architecture

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # as data.transforms has it, for files that do not tell
IMAGENET_STD = (0.229, 0.224, 0.225)
SUFFIXES = {"timm": (".safetensors",), "official": (".pt", ".pth"), "onnx": (".onnx",)}
Target = Literal["timm", "official", "hub", "hf", "onnx"]


def create_timm(metadata: Metadata, num_classes: int = 0, drop_path: float = 0.0) -> nn.Module:
    """The timm model that the weights belong to, with fresh weights.

    `drop_path` is the largest rate of stochastic depth, that of the last block.

    `timm.create_model(model, in_chans=..., patch_size=stem_stride)` does the same for stem strides
    4 and 1. At 2, timm would halve the resolution once more in the first stage, so the stem's
    convolution is exchanged instead. timm has no V1 huge: its large takes the widths.
    `timm.data.resolve_model_data_config` of it is the preprocessing of `data.transforms`.
    """
    size = SIZES[metadata.model.split("_")[1]]
    name = metadata.model if timm.is_model(metadata.model) else "convnext_large"
    model = timm.create_model(
        name,
        pretrained_cfg={
            "input_size": (metadata.in_chans, *metadata.image_size),
            "mean": metadata.channel_mean,
            "std": metadata.channel_std,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "num_classes": num_classes,
            "first_conv": "stem.0",
            "classifier": CLASSIFIER.rstrip("."),
        },
        in_chans=metadata.in_chans,
        num_classes=num_classes,
        depths=size.depths,
        dims=size.widths,
        drop_path_rate=drop_path,
        patch_size=1 if metadata.stem_stride == 1 else 4,
    )
    if metadata.stem_stride == 2:
        stem = model.get_submodule("stem")
        assert isinstance(stem, nn.Sequential)
        stem[0] = nn.Conv2d(metadata.in_chans, size.widths[0], kernel_size=2, stride=2)
    return model


def to_timm(tensors: Mapping[str, Tensor], metadata: Metadata) -> dict[str, Tensor]:
    """An encoder's state dict in any layout, or a whole FCMAE's, under timm's names and shapes.

    Raises:
        ValueError: see `weight_names.read`.
    """
    source = complete(weight_names.read(tensors, metadata.architecture))
    with torch.device("meta"):
        target = create_timm(metadata, count_classes(source)).state_dict()
    assert source.keys() == target.keys()
    return {k: v.reshape(target[k].shape).contiguous() for k, v in source.items()}


def as_timm(tensors: Mapping[str, Tensor], metadata: Metadata) -> nn.Module:
    """The timm model of the same weights, with their classifier if any; raises as `to_timm`."""
    named = to_timm(tensors, metadata)
    model = create_timm(metadata, count_classes(named))
    model.load_state_dict(named)
    return model


def to_official(tensors: Mapping[str, Tensor], metadata: Metadata) -> dict[str, Tensor]:
    """The same under the official dense names and shapes.

    Raises:
        ValueError: see `weight_names.read`.
    """
    source = complete(weight_names.read(tensors, metadata.architecture))
    named = weight_names.to_official(source, metadata.model)
    return {k: v.contiguous() for k, v in named.items()}


def complete(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with a final norm: that of the source, or the identity that it starts as."""
    if f"{FINAL_NORM}weight" in tensors:
        return tensors
    dim = len(tensors["stages.3.blocks.0.norm.weight"])
    norm = {f"{FINAL_NORM}weight": torch.ones(dim), f"{FINAL_NORM}bias": torch.zeros(dim)}
    return tensors | norm


def save_timm(
    path: Path,
    tensors: dict[str, Tensor],
    metadata: Metadata,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Write timm weights with their metadata in the header, and what else is to stand there."""
    header = {"format": "pt", **header_for(metadata, beside or {})}
    with replacing(path) as partial:
        save_file(tensors, partial, metadata=header)


def save_official(
    path: Path, tensors: dict[str, Tensor], metadata: Metadata, beside: Mapping[str, str]
) -> None:
    """Write official weights under the key `model`, with the rest beside it."""
    with replacing(path) as partial:
        torch.save({"model": tensors, **header_for(metadata, beside)}, partial)


def read_metadata(path: Path) -> Metadata:
    """The metadata of weights converted to timm's names.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file was not written by this converter.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"weights {path} do not exist; make them with python -m fcmae.convert"
        )
    try:
        return Metadata.of_json(header_of(path)[HEADER])
    except (SafetensorError, KeyError) as error:
        raise ValueError(
            f"{path} has no header of converted weights ({error}); make it with"
            " python -m fcmae.convert SOURCE OUT.safetensors --to timm"
        ) from error


def load_timm(path: Path, num_classes: int = 0, drop_path: float = 0.0) -> nn.Module:
    """A timm model with converted weights; only a classifier, if asked for, starts fresh.

    A classifier in the file is of other classes and stays there: `timm.create_model(model,
    num_classes=..., checkpoint_path=path)` loads it too.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `read_metadata`; or the tensors are not the model's.
    """
    model = create_timm(read_metadata(path), num_classes, drop_path)
    kept = {k: v for k, v in load_file(path).items() if not k.startswith(CLASSIFIER)}
    fresh = {k: v for k, v in model.state_dict().items() if k.startswith(CLASSIFIER)}
    checkpoint.fill(model.state_dict(), kept | fresh, path)
    return model


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Convert encoder weights to what timm, the official code, transformers or ONNX load."""

    source: Annotated[Path, tyro.conf.Positional]
    """A run (its newest checkpoint), a step_* directory, the model.safetensors or ema.safetensors
    in one; or a .safetensors, .pt or .pth file in timm's or the official names, dense or sparse."""
    out: Annotated[Path, tyro.conf.Positional]
    """The file to write: .safetensors for timm, .pt or .pth for official, .onnx for onnx; the
    directory for hub and hf. These three are not written over anything."""
    to: Target = "timm"
    """timm, official: whose names the weights get. hub: a directory in the format of timm's models
    on the Hugging Face hub. hf: one for transformers. onnx: features, or logits where there is a
    classifier, for images of any number and size."""
    image_size: int | tuple[int, int] | None = None
    """Side, or height and width, in pixels, of the images that SOURCE was trained on, where it does
    not tell; 224 otherwise."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel of those images, or one value for all; ImageNet's otherwise."""
    std: tuple[float, ...] | None = None
    """Likewise the standard deviation."""


def convert(
    source: Path,
    out: Path,
    *,
    to: Target = "timm",
    image_size: int | tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> str:
    """Convert the weights at `source`, write `out`, and say what became of them.

    Args: see `ConvertConfig`.

    Raises:
        OSError: something cannot be read or written.
        ValueError: see `read_weights` and `metadata_from_flags`; flags for what the source tells
            itself; `out` has another target's suffix; or the target cannot express the weights.
        ModuleNotFoundError: the extra `export` is missing.
    """
    if to in SUFFIXES and out.suffix not in SUFFIXES[to]:
        raise ValueError(f"out={out} must end in {' or '.join(SUFFIXES[to])} for --to {to}")
    weights = read_weights(source)
    metadata = weights.metadata
    if metadata is None:
        metadata = metadata_from_flags(weights.architecture, image_size, mean, std)
    elif (image_size, mean, std) != (None, None, None):
        raise ValueError(
            f"{source} tells itself of image_size={metadata.image_size}, mean={metadata.mean},"
            f" std={metadata.std}: leave these flags out"
        )
    measured = write(out, to, weights, metadata)
    step = "unknown" if metadata.step is None else metadata.step
    told = [f"{out}: {to} {metadata.model}, step {step}"]
    if weights.dropped:
        told.append(f"{weights.dropped} tensors of the decoder dropped")
    kept = f"{FINAL_NORM}weight" in weights.tensors
    told.append("final norm kept" if kept else "final norm, not in the source, is the identity")
    if weights.classes:
        told.append(f"classifier of {len(weights.classes)} classes kept")
    if weights.metadata is None:
        told.append(
            f"image_size={metadata.image_size}, mean={metadata.mean}, std={metadata.std} are not in"
            " the source but flags or defaults"
        )
    return "; ".join(told + measured)


def write(out: Path, to: Target, weights: Weights, metadata: Metadata) -> list[str]:
    """Write the target; what was measured of it.

    Raises: see `convert`.
    """
    tensors, classes, beside = weights.tensors, weights.classes, weights.beside
    if to == "timm":
        save_timm(out, to_timm(tensors, metadata), metadata, beside)
    elif to == "official":
        save_official(out, to_official(tensors, metadata), metadata, beside)
    elif to == "hub":
        hub.write(out, as_timm(tensors, metadata), metadata, classes, beside)
    elif to == "hf":
        from fcmae.weights import hf  # transformers takes seconds

        hf.write(out, complete(tensors), metadata, classes, beside)
    else:
        from fcmae.weights import onnx

        model = as_timm(tensors, metadata)
        difference = onnx.write(out, model, metadata, classes, beside)
        return [f"onnxruntime differs from torch by at most {difference:.1e}"]
    return []


def metadata_from_flags(
    known: Architecture,
    image_size: int | tuple[int, int] | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> Metadata:
    """The metadata of weights whose file has none: flags, or 224 and ImageNet's mean and std.

    Raises:
        ValueError: a flag that does not fit, or no mean and std for other than three channels.
    """
    if known.in_chans != 3 and (mean is None or std is None):
        raise ValueError(
            f"mean and std cannot be inferred for in_chans={known.in_chans}, since ImageNet's have"
            " three channels: give --mean and --std"
        )
    size = 224 if image_size is None else image_size
    metadata = Metadata(
        model=known.model,
        image_size=(size, size) if isinstance(size, int) else size,
        in_chans=known.in_chans,
        mean=IMAGENET_MEAN if mean is None else mean,
        std=IMAGENET_STD if std is None else std,
        stem_stride=known.stem_stride,
        step=None,
    )
    patch_grid(*metadata.image_size, 8 * known.stem_stride)
    for name, values in (("mean", metadata.mean), ("std", metadata.std)):
        if len(values) not in (1, known.in_chans):
            raise ValueError(
                f"--{name} has {len(values)} values for in_chans={known.in_chans}: give one, or one"
                " a channel"
            )
    return metadata


def main(argv: Sequence[str]) -> None:
    """Convert, and say what was written."""
    config = parse(ConvertConfig, argv, description=str(ConvertConfig.__doc__))
    print(convert(**vars(config)))


if __name__ == "__main__":
    run_program(main)
