"""Encoder weights to timm's names: `python -m fcmae.convert runs/demo OUT.safetensors --to timm`.

The encoder's names are timm's already, and sparse weights are dense weights. What is left: timm
holds the linear layers of its smaller models as 1x1 convolutions, and has a final norm, which FCMAE
does not train and which starts as the identity.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import timm
import torch
import tyro
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from fcmae import checkpoint
from fcmae.config import parse, run_program
from fcmae.encoder import SIZES

HEADER = "fcmae"  # key of the metadata in the file's header
FINAL_NORM = "head.norm."  # timm's prefix for what FCMAE does not train
DECODER = "decoder."  # the one prefix that conversion drops
CLASSIFIER = "head.fc."  # timm's prefix for what fine-tuning adds


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a user of the weights must know, in the header of the file as JSON."""

    model: str
    image_size: tuple[int, int]
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stem_stride: int
    step: int


def create_timm(metadata: Metadata, num_classes: int = 0) -> nn.Module:
    """The timm model that the weights belong to, with fresh weights.

    `timm.create_model(model, in_chans=..., patch_size=stem_stride)` does the same for stem strides
    4 and 1. At 2, timm would halve the resolution once more in the first stage, so the stem's
    convolution is exchanged instead. timm has no V1 huge: its large takes the widths.
    """
    size = SIZES[metadata.model.split("_")[1]]
    name = metadata.model if timm.is_model(metadata.model) else "convnext_large"
    model = timm.create_model(
        name,
        in_chans=metadata.in_chans,
        num_classes=num_classes,
        depths=size.depths,
        dims=size.widths,
        patch_size=1 if metadata.stem_stride == 1 else 4,
    )
    if metadata.stem_stride == 2:
        stem = model.get_submodule("stem")
        assert isinstance(stem, nn.Sequential)
        stem[0] = nn.Conv2d(metadata.in_chans, size.widths[0], kernel_size=2, stride=2)
    return model


def to_timm(tensors: Mapping[str, Tensor], metadata: Metadata) -> dict[str, Tensor]:
    """An FCMAE or encoder state dict under timm's names and shapes.

    Every source key is used once and every target key filled; the decoder is dropped.

    Raises:
        ValueError: a key is missing, left over or of the wrong size.
    """
    source = {
        k.removeprefix("encoder."): v for k, v in tensors.items() if not k.startswith(DECODER)
    }
    with torch.device("meta"):
        target = create_timm(metadata).state_dict()
    source[f"{FINAL_NORM}weight"] = torch.ones(target[f"{FINAL_NORM}weight"].shape)
    source[f"{FINAL_NORM}bias"] = torch.zeros(target[f"{FINAL_NORM}bias"].shape)
    wrong = sorted(source.keys() ^ target.keys())
    wrong += [k for k in source.keys() & target.keys() if source[k].numel() != target[k].numel()]
    if wrong:
        raise ValueError(
            f"the weights are not those of {metadata.model} with stem_stride={metadata.stem_stride}"
            f" and in_chans={metadata.in_chans}: {len(wrong)} tensors differ, such as"
            f" {', '.join(wrong[:3])}; check the config.yaml beside them"
        )
    return {k: v.reshape(target[k].shape).contiguous() for k, v in source.items()}


def save_timm(path: Path, tensors: dict[str, Tensor], metadata: Metadata) -> None:
    """Write timm weights with their metadata in the header."""
    header = {"format": "pt", HEADER: json.dumps(asdict(metadata))}
    partial = path.with_name(path.name + ".tmp")
    partial.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, partial, metadata=header)
    partial.replace(path)


def read_metadata(path: Path) -> Metadata:
    """The metadata of converted weights.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file was not written by this converter.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"weights {path} do not exist; make them with python -m fcmae.convert"
        )
    try:
        with cast("Any", safe_open(path, framework="pt")) as file:
            header: dict[str, str] = file.metadata() or {}
        fields: dict[str, Any] = json.loads(header[HEADER])
    except (SafetensorError, KeyError) as error:
        raise ValueError(
            f"{path} has no header of converted weights ({error}); make it with"
            " python -m fcmae.convert CHECKPOINT OUT.safetensors --to timm"
        ) from error
    return Metadata(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})  # type: ignore[arg-type]


def load_timm(path: Path, num_classes: int = 0) -> nn.Module:
    """A timm model with converted weights; only a classifier, if asked for, starts fresh.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `read_metadata`; or the tensors are not the model's.
    """
    metadata = read_metadata(path)
    model = create_timm(metadata, num_classes)
    fresh = {k: v for k, v in model.state_dict().items() if k.startswith(CLASSIFIER)}
    checkpoint.load_model(model, {**load_file(path), **fresh}, path)
    return model


def find_checkpoint(source: Path) -> Path:
    """The step directory that `source` names: a run's newest, itself, or its model.safetensors.

    Raises:
        FileNotFoundError: there is none.
    """
    step = source.parent if source.name == checkpoint.MODEL else source
    step = step if (step / checkpoint.MODEL).is_file() else checkpoint.latest(step)
    if step is None:
        raise FileNotFoundError(
            f"{source} holds no checkpoint; give a run, a step_* directory or the"
            f" {checkpoint.MODEL} in one"
        )
    return step


def convert(source: Path, out: Path) -> Metadata:
    """Convert the checkpoint at `source` and write `out`.

    Raises:
        OSError: something cannot be read or written.
        ValueError: the checkpoint is damaged or does not match its config.
    """
    step = find_checkpoint(source)
    try:
        config: dict[str, Any] = yaml.safe_load((step / checkpoint.CONFIG).read_text())
        state: dict[str, int] = json.loads((step / checkpoint.STATE).read_text())
        tensors = load_file(step / checkpoint.MODEL)
    except (SafetensorError, yaml.YAMLError, ValueError) as error:
        raise ValueError(f"checkpoint {step} is damaged: {error}") from error
    model, size = config["model"], config["model"]["image_size"]
    metadata = Metadata(
        model=model["name"],
        image_size=(size, size) if isinstance(size, int) else (size[0], size[1]),
        in_chans=model["in_chans"],
        mean=tuple(config["data"]["mean"]),
        std=tuple(config["data"]["std"]),
        stem_stride=model["stem_stride"],
        step=state["step"],
    )
    save_timm(out, to_timm(tensors, metadata), metadata)
    return metadata


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Convert a pretraining checkpoint into weights that timm loads."""

    source: Annotated[Path, tyro.conf.Positional]
    """A run (its newest checkpoint), a step_* directory, or the model.safetensors in one."""
    out: Annotated[Path, tyro.conf.Positional]
    """The file to write, OUT.safetensors."""
    to: Literal["timm"] = "timm"
    """Whose names the weights get."""


def main(argv: Sequence[str]) -> None:
    """Convert, and say what was written."""
    config = parse(ConvertConfig, argv, description=str(ConvertConfig.__doc__))
    metadata = convert(config.source, config.out)
    print(f"{config.out}: {config.to} {metadata.model}, step {metadata.step}")


if __name__ == "__main__":
    run_program(main)
