"""Encoder weights out of any file that holds some, into what others load."""

from dataclasses import replace
from pathlib import Path

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from fcmae.architecture import Architecture
from fcmae.patches import sides_of
from fcmae.weights.convmaes import check_positions
from fcmae.weights.files import read_weights
from fcmae.weights.metadata import Metadata
from fcmae.weights.options import Target
from fcmae.weights.targets import write_target
from fcmae.weights.weight_names import FINAL_NORM

SUFFIXES = {
    "timm": (".safetensors",),
    "official": (".pt", ".pth"),
    "official-sparse": (".pt", ".pth"),
    "onnx": (".onnx",),
}


def convert(
    source: str | Path,
    out: Path,
    *,
    to: Target = "timm",
    key: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    half: bool = False,
) -> str:
    """Convert the weights at `source`, write `out`, and say what became of them.

    The arguments are the flags of `python -m fcmae.convert`, whose help says what each of them is.

    Raises:
        OSError: something cannot be read or written.
        ValueError: see `read_weights` and `metadata_from_flags`; flags for what the source tells
            itself; `out` has another target's suffix; or the target cannot express the weights.
        ModuleNotFoundError: the extra `export` is missing.
    """
    if to in SUFFIXES and out.suffix not in SUFFIXES[to]:
        raise ValueError(f"out={out} must end in {' or '.join(SUFFIXES[to])} for --to {to}")
    if out.exists() and Path(source).exists() and out.samefile(source):
        raise ValueError(f"out={out} is what is converted: give the result another name")
    if half and to != "onnx":
        raise ValueError(f"half=True is for --to onnx, not for --to {to}: leave --half out")
    weights = read_weights(source, key)
    metadata = weights.metadata
    if metadata is None:
        metadata = metadata_from_flags(weights.architecture, image_size, mean, std)
    elif (image_size, mean, std) != (None, None, None):
        raise ValueError(
            f"{source} tells itself of image_size={metadata.image_size}, mean={metadata.mean},"
            f" std={metadata.std}: leave these flags out"
        )
    if metadata.architecture.is_convmae:
        check_positions(weights.tensors, metadata.architecture)
    measured = write_target(out, to, weights, metadata, half=half)
    step = "unknown" if metadata.step is None else metadata.step
    sentences = [f"{out}: {to} {metadata.model}, step {step}"]
    sentences += weights.notes
    sentences += [f"{n} tensors of the {part} dropped" for part, n in weights.dropped.items()]
    if to != "official-sparse" and metadata.architecture.is_convnext:
        kept = f"{FINAL_NORM}weight" in weights.tensors
        sentences.append(
            "final norm kept" if kept else "final norm, not in the source, is the identity"
        )
    if weights.classes:
        sentences.append(f"classifier of {len(weights.classes)} classes kept")
    if weights.metadata is None:
        sentences.append(
            f"image_size={metadata.image_size}, mean={metadata.mean}, std={metadata.std} are not in"
            " the source but flags or defaults"
        )
    return "; ".join(sentences + measured)


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
    if image_size is not None:
        if known.is_vit and sides_of(image_size) != known.sides:
            raise ValueError(
                f"image_size={image_size} is not that of the ViT's positions, {known.sides}: leave"
                " --image_size out; fine-tuning takes other sizes (--image_size of finetune.train)"
            )
        known = replace(known, image_size=image_size)
    known.check()
    metadata = Metadata.of(
        known,
        mean=IMAGENET_DEFAULT_MEAN if mean is None else mean,
        std=IMAGENET_DEFAULT_STD if std is None else std,
        step=None,
    )
    for name, values in (("mean", metadata.mean), ("std", metadata.std)):
        if len(values) not in (1, known.in_chans):
            raise ValueError(
                f"--{name} has {len(values)} values for in_chans={known.in_chans}: give one, or one"
                " a channel"
            )
    return metadata
