"""An ONNX file for images of any number and size, which is compared with torch when written."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor, nn
from torch.export import Dim

from fcmae.run.extras import extra
from fcmae.run.files import staged
from fcmae.run.waiting import waiting
from fcmae.weights.metadata import SIDES, Metadata, header_for
from fcmae.weights.onnx_files import WEIGHTS
from fcmae.weights.pooling import pooled
from fcmae.weights.weight_names import FINAL_NORM, listing

with extra("export", "--to onnx needs"):
    from onnxruntime import InferenceSession
    from onnxscript import ir
    from onnxscript.ir.passes import common as passes
    from onnxscript.optimizer import fold_constants

MOST_BYTES = 2**31  # of a file in protobuf
# Largest difference as a share of the largest output. Float32 summed in another order gives 1e-6 in
# atto and tiny; a wrong operator, axis or padding gives more than a hundredth.
TOLERANCE = 1e-4
HALF_TOLERANCE = 2e-2  # float16 has 11 bits, and its rounding adds up over the blocks


def compute_in_float32(layer: nn.Module) -> None:
    """Let a layer of half-precision activations compute in float32.

    GRN needs it: the squares that it sums over an image's positions, 3,136 of them in the first
    stage at 224 px, pass 65,504, the largest number of float16, from activations of 5 on. So do
    the group norms of segmenters. Hooks leave the names of its tensors as they are.
    """

    def before(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].float(),)

    def after(_: nn.Module, __: tuple[Tensor], output: Tensor) -> Tensor:
        return output.half()

    layer.float()
    layer.register_forward_pre_hook(before)
    layer.register_forward_hook(after)


class Half(nn.Module):
    """A timm model in half precision whose images and outputs are float32.

    Its sums over positions are taken in float32: those of GRN and group norms, and the mean of
    features.
    """

    def __init__(self, model: nn.Module, *, logits: bool) -> None:
        super().__init__()
        model = deepcopy(model).half()
        for layer in model.modules():
            if isinstance(layer, GlobalResponseNorm | nn.GroupNorm):
                compute_in_float32(layer)
        self.model: Any = model
        self.logits = logits

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        if self.logits:
            return self.model(images.half()).float()
        return pooled(self.model, self.model.forward_features(images.half()).float())


class Exported(nn.Module):
    """A model that gives its logits, or timm's its features of the image, pooled."""

    def __init__(self, model: nn.Module, *, logits: bool) -> None:
        super().__init__()
        self.model: Any = model
        self.logits = logits

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        if self.logits:
            return self.model(images)
        return pooled(self.model, self.model.forward_features(images))


def write_onnx(
    out: Path,
    model: nn.Module,
    metadata: Metadata,
    classes: Sequence[str],
    extra_header: Mapping[str, str],
    *,
    half: bool = False,
) -> float:
    """Write a timm model, or a segmenter on one, as one ONNX file.

    Its input `images` is float32 `[batch, channels, height, width]`, normalised, with height and
    width multiples of the patch side; those of ViTs and ConvMAE are of the size of the
    positions. Its output is `logits`, `[batch, classes]`, with the height and width of the images
    behind them for a segmenter; or, without classes, `features`, `[batch, d]`.

    Args:
        out: the file, which does not exist yet.
        model: the model with the weights.
        metadata: their metadata, which the file holds together with a description of the input.
        classes: names of the classes of its logits; empty for features.
        extra_header: what else our files tell about these weights.
        half: whether weights and activations are float16; images and outputs stay float32.

    Returns:
        The largest absolute difference between the outputs of onnxruntime and of torch.

    Raises:
        FileExistsError: something is at `out`.
        ValueError: the weights are too large for one file, the exporter has lost one of them, or
            the outputs differ too much.
    """
    exported = Exported(model, logits=bool(classes)).eval()
    written = Half(model, logits=bool(classes)).eval() if half else exported
    size = sum(tensor.nbytes for tensor in written.state_dict().values())
    if size >= MOST_BYTES:
        raise ValueError(
            f"{metadata.model} has {size / 1e9:.1f} GB of weights, and an ONNX file ends at"
            f" {MOST_BYTES / 1e9:.1f} GB: take --to hub or --to hf"
        )
    patch = metadata.architecture.patch_size
    side = SIDES[metadata.pool]
    sides = ((side + 1) * patch, (side + 2) * patch)  # sizes of 1 become fixed
    rows, columns = (Dim(name, min=side) for name in ("rows", "columns"))
    dims = {0: Dim("batch"), 2: patch * rows, 3: patch * columns}
    if metadata.architecture.attends:
        sides = metadata.image_size
        del dims[2], dims[3]
    with waiting("exporting to ONNX, and comparing"), staged(out) as partial:
        program = torch.onnx.export(
            written,
            (torch.zeros(2, metadata.in_chans, *sides),),
            dynamo=True,
            dynamic_shapes={"images": dims},
            input_names=["images"],
            output_names=["logits" if classes else "features"],
            verbose=False,
            optimize=False,  # it merges equal weights, removes zero ones, and loses names
        )
        assert program is not None
        weights = [f"{WEIGHTS}{name}" for name in model.state_dict()]
        simplify(program.model, weights)
        # timm's networks have counters, and norms that outputs do not pass
        if not metadata.architecture.of_timm:
            check_names(program.model, weights)
        program.model.metadata_props.update(described(metadata, extra_header))
        program.save(partial, external_data=False)
        return difference(partial, exported, metadata, HALF_TOLERANCE if half else TOLERANCE)


def simplify(graph: ir.Model, weights: Sequence[str]) -> None:
    """Compute what is constant in a graph, in place, and leave each weight and its name."""
    kept = set(weights)

    def constant(node: ir.Node) -> bool | None:
        """Whether to compute a node now; None leaves it to the optimiser."""
        return False if any(x is not None and x.name in kept for x in node.inputs) else None

    fold_constants(graph, should_fold=constant)
    passes.CommonSubexpressionEliminationPass()(graph)
    passes.RemoveUnusedNodesPass()(graph)
    passes.ClearMetadataAndDocStringPass()(graph)  # stack traces, with paths of this machine


def check_names(graph: ir.Model, weights: Sequence[str]) -> None:
    """Check that a graph has each weight but the final norm, which features do not pass.

    Raises:
        ValueError: a weight is missing, which is a fault of the exporter.
    """
    named = graph.graph.initializers
    lost = [name for name in weights if name not in named and FINAL_NORM not in name]
    if lost:
        raise ValueError(
            f"torch's exporter has lost {len(lost)} weights{listing(lost)}: nothing is written; try"
            " the versions of torch and onnxscript in constraints.txt"
        )


def described(metadata: Metadata, extra_header: Mapping[str, str]) -> dict[str, str]:
    """Describe what a user of the file has to know, as entries of its metadata."""
    patch = metadata.architecture.patch_size
    sides = f"height and width are multiples of {patch}"
    if metadata.architecture.attends:
        sides = "height {} and width {}".format(*metadata.image_size)
    return header_for(metadata, extra_header) | {
        "input": f"images: float32 [batch, {metadata.in_chans}, height, width], RGB if there are"
        f" three channels; {sides}",
        "normalisation": f"(x - mean) / std, x on the scale 0 to 1: {metadata.scale}",
        "mean": json.dumps(metadata.channel_mean),
        "std": json.dumps(metadata.channel_std),
    }


@torch.no_grad()
def difference(
    path: Path, exported: nn.Module, metadata: Metadata, tolerance: float = TOLERANCE
) -> float:
    """Measure the largest absolute difference between the file in onnxruntime and torch.

    The input is noise: one image as large as in training, and three that are larger by a patch
    where the model takes them.

    Raises:
        ValueError: the difference is more than `tolerance` times the largest output.
    """
    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    architecture = metadata.architecture
    for batch, more in ((1, 0), (3, 0 if architecture.attends else architecture.patch_size)):
        sides = [side + more for side in metadata.image_size]
        images = torch.randn(batch, metadata.in_chans, *sides, generator=generator)
        (output,) = session.run(None, {"images": images.numpy()})
        wanted = exported(images)
        differs = (torch.from_numpy(cast("Any", output)) - wanted).abs().max().item()
        most = wanted.abs().max().item()
        if not differs <= tolerance * most:  # NaN fails too
            raise ValueError(
                f"onnxruntime differs from torch by {differs:.1e} in outputs of up to {most:.1e},"
                f" more than {tolerance} of them: nothing is written; try the versions of"
                " torch, onnxscript and onnxruntime in constraints.txt"
            )
        largest = max(largest, differs)
    return largest
