"""Writing weights for the targets of `python -m fcmae.convert`."""

from pathlib import Path

from fcmae.weights.files import Weights
from fcmae.weights.hub import write_hub
from fcmae.weights.metadata import Metadata
from fcmae.weights.official import save_official, to_official, to_official_sparse
from fcmae.weights.options import Target
from fcmae.weights.timm_models import as_timm, save_timm, to_timm
from fcmae.weights.weight_names import complete


def write_target(
    out: Path, to: Target, weights: Weights, metadata: Metadata, *, half: bool
) -> list[str]:
    """Write weights for a target, and describe what was measured of them, if anything was.

    Args:
        out: the file or directory to write.
        to: the target.
        weights: the weights.
        metadata: their metadata.
        half: whether the target onnx is in half precision.

    Raises:
        OSError: `out` cannot be written.
        ValueError: the target cannot express the weights.
        ModuleNotFoundError: the extra `export` is missing.
    """
    architecture = metadata.architecture
    if architecture.is_convmae and to not in ("timm", "official", "onnx"):
        raise ValueError(
            f"--to {to} is for models that timm or transformers has: {metadata.model} goes to timm"
            " (a file that this project reads), official (ConvMAE's own names) and onnx"
        )
    if not (architecture.is_convnext or architecture.is_convmae) and to not in (
        "timm",
        "hub",
        "onnx",
    ):
        raise ValueError(
            f"--to {to} is for ConvNeXt: {metadata.model} goes to timm, hub and onnx, under timm's"
            " names"
        )
    if metadata.pool != "last" and to != "onnx":
        raise ValueError(
            f"--to {to} has no classifier on the {metadata.pool} of a map: take --to onnx, which"
            " holds it, or the file as it is, which fcmae.load and finetune.predict read"
        )
    tensors = weights.tensors
    classes = weights.classes
    extra_header = weights.extra_header
    if to == "timm":
        save_timm(out, to_timm(tensors, metadata), metadata, extra_header)
    elif to == "official":
        save_official(out, to_official(tensors, metadata), metadata, extra_header)
    elif to == "official-sparse":
        save_official(out, to_official_sparse(tensors, metadata), metadata, extra_header)
        return ["the sparse model has no final norm: it is left out"]
    elif to == "hub":
        write_hub(out, as_timm(tensors, metadata), metadata, classes, extra_header)
    elif to == "hf":
        from fcmae.weights.hf import write_hf  # transformers takes seconds

        write_hf(out, complete(tensors), metadata, classes, extra_header)
    else:
        from fcmae.weights.onnx import write_onnx  # onnxruntime may be missing

        model = as_timm(tensors, metadata)
        difference = write_onnx(out, model, metadata, classes, extra_header, half=half)
        return [f"onnxruntime differs from torch by at most {difference:.1e}"]
    return []
