"""Loading weights, strictly, into the parts of a model that a run starts from."""

from pathlib import Path

from torch import Tensor, nn

from fcmae.architecture import Architecture
from fcmae.run.whole_tensors import fill
from fcmae.weights.checkpoints import find_checkpoint, read_checkpoint
from fcmae.weights.convmaes import check_fused
from fcmae.weights.files import Weights, read_weights
from fcmae.weights.finite import refuse_not_finite
from fcmae.weights.vits import check_fixed
from fcmae.weights.weight_names import FINAL_NORM, classifier_of


def load_encoder(encoder: nn.Module, source: str | Path, architecture: Architecture) -> str:
    """Load weights into an encoder, strictly, and describe in one phrase what was loaded.

    Args:
        encoder: the encoder, of the given architecture.
        source: what `read_weights` reads; a final norm and a classifier in it are left out.
        architecture: the architecture that the run trains.

    Raises:
        OSError: a file cannot be read.
        ValueError: the file is damaged, or its tensors are not those of this architecture.
    """
    weights = read_weights(source)
    if not weights.architecture.same_tensors(architecture):
        raise ValueError(
            f"init.weights={source} is {weights.architecture}, but the run trains {architecture}:"
            " change model.name, model.stem_stride, model.in_chans, model.depths or model.widths,"
            " or give other weights"
        )
    if architecture.attends:
        try:
            if architecture.is_vit:
                check_fixed(weights.tensors, weights.architecture)
            else:
                check_fused(weights.tensors)
        except ValueError as error:
            raise ValueError(f"init.weights={source}: {error}") from error
    fill_encoder(encoder, weights)
    left_out = [
        f"{prefix}*"
        for prefix in (FINAL_NORM, classifier_of(architecture))
        if any(name.startswith(prefix) for name in weights.tensors)
    ]
    without = f", without its {' and '.join(left_out)}" if left_out else ""
    told = f"encoder from {source} ({weights.architecture}{without})"
    return "; ".join((told, *weights.notes))


def fill_encoder(encoder: nn.Module, weights: Weights) -> None:
    """Load weights into an encoder of their architecture, strictly."""
    inside = "net." if weights.architecture.of_timm else ""
    names = encoder.state_dict()
    encoder.load_state_dict({name: weights.tensors[name.removeprefix(inside)] for name in names})


def load_decoder(decoder: nn.Module, source: str | Path) -> str:
    """Load the decoder of a run or a checkpoint, strictly, and describe what was loaded.

    Raises:
        OSError: there is no checkpoint, or it cannot be read.
        ValueError: the checkpoint is damaged, or its decoder is another one, or not finite.
    """
    path, kept = read_part(source, "decoder.")
    fill(decoder.state_dict(), kept, path)
    return f"decoder from {path}"


def load_projector(projector: nn.Module, source: str | Path) -> str:
    """Load the projector of a run or a checkpoint, strictly, and describe what was loaded.

    One of a run without a contrastive term has none, and the projector begins anew.

    Raises:
        OSError: there is no checkpoint, or it cannot be read.
        ValueError: the checkpoint is damaged, or its projector is another one, or not finite.
    """
    path, kept = read_part(source, "contrast.projector.")
    if not kept:
        return f"projector new, since {path} has none"
    fill(projector.state_dict(), kept, path)
    return f"projector from {path}"


def read_part(source: str | Path, prefix: str) -> tuple[Path, dict[str, Tensor]]:
    """Read the checkpoint that `source` names: its path, and its tensors behind a prefix.

    Raises:
        OSError: there is no checkpoint, or it cannot be read.
        ValueError: the checkpoint is damaged, or has values that are not finite.
    """
    path = find_checkpoint(Path(source), lambda _: None)  # the encoder has told what is damaged
    tensors, _ = read_checkpoint(path)
    kept = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    refuse_not_finite(kept, path)
    return path, kept
