"""What the parts of a model cost: parameters, multiply-adds, bytes saved for backward.

Closed formulas; the help of scripts/plan.py says what they count and what they leave out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fcmae.model_config import ModelConfig


@dataclass(frozen=True)
class Part:
    """The stem, a stage or the decoder, and what it does to a micro-batch."""

    parameters: int
    macs: int
    """Multiply-adds of the forward pass."""
    saved: int
    """Bytes saved for backward: activations, and the copies of weights that were multiplied."""
    input: int = 0
    """Bytes of a stage's input, which gradient checkpointing keeps."""
    apart: int = 0
    """Bytes of the input that are not in `saved`."""


def block_parameters(d: int, grn: bool) -> int:
    """Parameters of a block.

    7x7 depthwise kernel and bias, LayerNorm, d -> 4d -> d with biases, GRN or LayerScale.
    """
    return 49 * d + d + 2 * d + 8 * d**2 + 5 * d + (8 * d if grn else d)


def block_saved(d: int, b: int, rows: int, grn: bool, size: int) -> int:
    """Bytes that a block saves of b images with `rows` sites in all, `size` a number in autocast.

    Inputs of the convolution, of fc1 (d each) and of GELU (4d); in V1 those of fc2 (4d) and of
    LayerScale (d) too; with GRN the norms. LayerNorm keeps its input, mean and deviation in fp32.
    Where autocast is on, it copies the kernel, and in V1 fc1's and fc2's weights.
    """
    copies = 0 if size == 4 else size * (49 * d + (0 if grn else 8 * d**2))
    return rows * (d * ((6 if grn else 11) * size + 4) + 8) + (16 * d * b if grn else 0) + copies


def encoder_parts(model: ModelConfig, b: int, v: int, n: int, size: int) -> Iterator[Part]:
    """The stem and the stages, for b images with v visible patches of n, `size` bytes a number."""
    grn = model.has_grn
    pixels = model.in_chans * model.stem_stride**2
    before = model.size.widths[0]
    yield Part(
        parameters=pixels * before + 3 * before,
        macs=64 * b * v * pixels * before,
        saved=64 * b * v * (size * pixels + 4 * before + 8),
    )
    for stage, (depth, d) in enumerate(zip(model.size.depths, model.size.widths, strict=True)):
        rows = b * v * 4 ** (3 - stage)
        sites = b * n * 4 ** (3 - stage)
        parameters = depth * block_parameters(d, grn)
        macs = depth * (8 * d**2 * rows + 49 * d * sites)
        saved = depth * block_saved(d, b, rows, grn, size)
        inputs = 4 * rows * before  # the residual stream is in fp32
        if stage:  # LayerNorm and a 2x2 convolution, on four times the rows
            inputs *= 4
            parameters += 2 * before + 4 * before * d + d
            macs += 4 * before * d * rows
            saved += inputs + 4 * rows * (8 + size * before) + 4 * size * before * d
        # a LayerNorm saves the stage's input as it is, a convolution in autocast's precision
        yield Part(parameters, macs, saved, inputs, apart=0 if stage or size == 4 else inputs)
        before = d


def decoder_part(model: ModelConfig, b: int, v: int, n: int, size: int) -> Part:
    """Projection, token, dense blocks, prediction; the loss saves prediction and target in fp32."""
    d = model.decoder_dim
    d_in = model.dim
    depth = model.decoder_blocks
    k = n - v
    pixels = model.in_chans * model.patch_size**2
    weights = d_in * d + d * pixels
    return Part(
        parameters=weights + 2 * d + pixels + depth * block_parameters(d, True),
        macs=b * (v * d_in * d + depth * n * (8 * d**2 + 49 * d) + k * d * pixels),
        saved=b * (size * (v * d_in + k * d) + 8 * k * pixels)
        + depth * block_saved(d, b, b * n, True, size)
        + (0 if size == 4 else size * weights),
    )


def contrast_part(model: ModelConfig, b: int, world: int) -> Part:
    """The projector of the views of all processes, b of each, and their likenesses, in fp32.

    The search for neighbours in the queue, which has no backward pass, is not counted.
    """
    d, hidden, c = model.dim, model.contrast.hidden, model.contrast.dim
    views = world * b
    weights = d * hidden + hidden * c
    pairs = views**2 // (2 if model.contrast.neighbours else 1)
    return Part(
        parameters=weights + 2 * hidden,  # the second norm has no scale and no shift
        macs=views * weights + pairs * c,
        # inputs of layers, norms and GELU, statistics of norms, vectors before and after scaling
        saved=4 * (views * (d + 3 * hidden + 3 * c) + 2 * (hidden + c) + pairs),
    )


def recomputing_bytes(stem: Part, stages: Sequence[Part], behind: Sequence[Part]) -> int:
    """The most bytes that stand at a time where each stage is computed again for backward.

    Args:
        stem: of the encoder.
        stages: of the encoder.
        behind: what takes the encoder's features, the decoder first.
    """
    last = sum(part.saved for part in behind)
    peaks = list[int]()
    inputs = 0
    for stage in stages:  # one is recomputed while the inputs of those before it stand
        peaks.append(inputs + stage.apart + stage.saved)
        inputs += stage.input
    return stem.saved + max(inputs + last, *peaks)
