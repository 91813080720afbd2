"""Training steps to be compared: ours, and those of rivals, on the same weights and images."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fcmae import FCMAE, draw_visible
from fcmae.decoders.plain import Decoder
from fcmae.encoder import Encoder
from fcmae.encoders.masked_convnet import MaskedConvNet
from fcmae.model_config import Implementation
from fcmae.networks import STEM_STRIDE, make_network
from fcmae.sparse.gathered import Gathered
from fcmae.sparse.grn_mlp import GlobalResponseNorm
from finetune.models.convnext_cpu import quicken
from scripts.bench.rivals import MaskedDense, Products, mae_of, minkowski_modules
from scripts.bench.timing import Work

Context = Callable[[], AbstractContextManager[Any]]
BF16: Context = partial(torch.autocast, "cpu", dtype=torch.bfloat16)


def model_of(name: str, sparse: Implementation = "gathered", **options: Any) -> FCMAE:
    """A model of fixed weights, in which GRN does something."""
    model = FCMAE(name=name, sparse=sparse, generator=torch.Generator().manual_seed(0), **options)
    for module in model.modules():
        if isinstance(module, GlobalResponseNorm):
            torch.nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(1))
    return model


def batch_of(b: int, size: int, n: int, ratio: float) -> tuple[Tensor, Tensor]:
    """Images and visible patches."""
    g = torch.Generator().manual_seed(0)
    return torch.randn(b, 3, size, size, generator=g), draw_visible(b, n, ratio, generator=g)


def step(
    model: torch.nn.Module,
    images: Tensor,
    visible: Tensor,
    context: Context = nullcontext,
) -> None:
    """Forward, loss, backward of a whole model, or of an encoder alone."""
    model.zero_grad()
    with context():
        out = model(images, visible)
        loss = out[0] if isinstance(out, tuple) else out.float().square().mean()
    loss.backward()


def dense(model: FCMAE) -> FCMAE:
    """Make a model compute on masked dense tensors, and return it."""
    assert isinstance(model.encoder, Encoder)
    model.encoder.sparse = MaskedDense
    return model


def same(model: FCMAE) -> FCMAE:
    """Return a model as it is."""
    return model


def without_kernels(model: FCMAE) -> FCMAE:
    """Make a model compute by PyTorch's operations alone, and return it."""
    for part in (model.encoder, model.decoder):
        assert isinstance(part, Encoder | Decoder)
        part.sparse = partial(Gathered, compiled=False)
    return model


def against_minkowski_modules(name: str, b: int) -> tuple[Work, Work]:
    """MinkowskiEngine with its own depthwise module, and gathered."""
    rival = model_of(name)
    assert isinstance(rival.encoder, Encoder)
    rival.encoder.sparse = minkowski_modules()
    return steps(rival, name, b)


def encoders(name: str, b: int) -> tuple[Work, Work]:
    """Masked dense and gathered encoder."""
    model, rival = model_of(name), dense(model_of(name))
    images, visible = batch_of(b, 224, model.n, model.ratio)
    return partial(step, rival.encoder, images, visible), partial(
        step, model.encoder, images, visible
    )


def steps(rival: torch.nn.Module, name: str, b: int) -> tuple[Work, Work]:
    """The whole step of another implementation, and of the gathered one."""
    model = model_of(name)
    images, visible = batch_of(b, 224, model.n, model.ratio)
    return partial(step, rival, images, visible), partial(step, model, images, visible)


def decoders(name: str, b: int, size: int) -> tuple[Work, Work]:
    """The step with SparK's UNet, and with the plain decoder, of as many channels."""
    plain, unet = (model_of(name, image_size=size, decoder=kind) for kind in ("plain", "unet"))
    batch = batch_of(b, size, plain.n, plain.ratio)
    return partial(step, unet, *batch), partial(step, plain, *batch)


def against_mae(name: str, b: int) -> tuple[Work, Work]:
    """MAE with ViT-S, and FCMAE."""
    mae = mae_of()
    return partial(step, mae, *batch_of(b, 224, mae.n, mae.ratio)), steps(mae, name, b)[1]


def convmae_against_mae(b: int) -> tuple[Work, Work]:
    """ConvMAE, and MAE with a ViT whose tokens are as wide; the same share is hidden."""
    convmae, mae = (model_of(f"{name}_small", ratio=0.75) for name in ("convmae", "mae_vit"))
    batch = batch_of(b, 224, mae.n, mae.ratio)
    return partial(step, convmae, *batch), partial(step, mae, *batch)


class WholeImages(torch.nn.Module):
    """A network of timm that computes whole images, hidden patches and all.

    Args:
        net: the network.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor, visible: Tensor) -> Tensor:
        """Compute the last map; `visible` is not looked at."""
        return self.net.forward_features(images)


def against_whole_images(name: str, b: int) -> tuple[Work, Work]:
    """A network of timm on whole images, and restricted to their visible patches."""
    model = model_of(name)
    assert isinstance(model.encoder, MaskedConvNet)
    batch = batch_of(b, 224, model.n, model.ratio)
    dense = WholeImages(model.encoder.net)
    return partial(step, dense, *batch), partial(step, model.encoder, *batch)


def timms_blocks(name: str, b: int, context: Context = nullcontext) -> tuple[Work, Work]:
    """A step on whole images by timm's ConvNeXt, and with the loops that fine-tuning gives it."""
    theirs = WholeImages(make_network(name, STEM_STRIDE).to(memory_format=torch.channels_last))
    ours = deepcopy(theirs)
    quicken(ours)
    images, visible = batch_of(b, 224, 1, 0)
    batch = (images.contiguous(memory_format=torch.channels_last), visible)
    return partial(step, theirs, *batch, context), partial(step, ours, *batch, context)


def against_products(name: str, b: int) -> tuple[Work, Work]:
    """Of a step, its matrix products alone; and the whole step."""
    model = model_of(name)
    return Products(name, model, b), steps(model, name, b)[1]


def against_no_numba(name: str, b: int) -> tuple[Work, Work]:
    """A step without compiled loops, and one with them."""
    return steps(without_kernels(model_of(name)), name, b)


def half_precision(name: str, b: int) -> tuple[Work, Work]:
    """A step under bf16 autocast, and one in fp32."""
    model = model_of(name)
    batch = batch_of(b, 224, model.n, model.ratio)
    return partial(step, model, *batch, BF16), partial(step, model, *batch)


# key -> what makes (numerator, denominator), and the ratio that is aimed at
TIMES: dict[str, tuple[Callable[[], tuple[Work, Work]], str]] = {
    "masked_dense_over_gathered_encoder_atto_b32": (
        partial(encoders, "convnextv2_atto", 32),
        ">= 3.0",
    ),
    "masked_dense_over_gathered_encoder_tiny_b8": (
        partial(encoders, "convnextv2_tiny", 8),
        ">= 3.3",
    ),
    "masked_dense_over_gathered_step_atto_b32": (
        lambda: steps(dense(model_of("convnextv2_atto")), "convnextv2_atto", 32),
        ">= 2.3",
    ),
    "minkowski_over_gathered_step_atto_b8": (
        lambda: steps(model_of("convnextv2_atto", "minkowski"), "convnextv2_atto", 8),
        ">= 4",
    ),
    "minkowski_over_gathered_step_atto_b32": (
        lambda: steps(model_of("convnextv2_atto", "minkowski"), "convnextv2_atto", 32),
        ">= 6",
    ),
    "minkowski_modules_over_gathered_step_atto_b8": (
        partial(against_minkowski_modules, "convnextv2_atto", 8),
        ">= 4",
    ),
    "minkowski_modules_over_gathered_step_atto_b32": (
        partial(against_minkowski_modules, "convnextv2_atto", 32),
        ">= 6",
    ),
    "dense_over_masked_encoder_resnet50_b4": (
        partial(against_whole_images, "timm:resnet50", 4),
        ">= 0.7",
    ),
    "mae_vit_s_over_fcmae_tiny_step_b8": (partial(against_mae, "convnextv2_tiny", 8), ">= 2.2"),
    "convmae_small_over_mae_vit_small_step_b8": (partial(convmae_against_mae, 8), "<= 1.25"),
    "timm_over_ours_fine_tuning_step_atto_b32": (
        partial(timms_blocks, "convnextv2_atto", 32),
        "> 1",
    ),
    "timm_over_ours_fine_tuning_step_atto_bf16_b32": (
        partial(timms_blocks, "convnextv2_atto", 32, BF16),
        "> 1",
    ),
    "floor_over_gathered_step_atto_b32": (
        partial(against_products, "convnextv2_atto", 32),
        ">= 0.55",
    ),
    "floor_over_gathered_step_tiny_b8": (
        partial(against_products, "convnextv2_tiny", 8),
        ">= 0.65",
    ),
    "unet_over_plain_step_atto_64px_b32": (partial(decoders, "convnextv2_atto", 32, 64), "<= 8"),
    "unet_over_plain_step_tiny_b8": (partial(decoders, "convnextv2_tiny", 8, 224), "<= 4"),
    "bf16_over_fp32_step_atto_b32": (partial(half_precision, "convnextv2_atto", 32), "<= 0.65"),
    "without_numba_over_gathered_step_atto_b32": (
        partial(against_no_numba, "convnextv2_atto", 32),
        "> 1",
    ),
}
MEMORY = "activation_memory_gathered_over_masked_dense_encoder_atto_b32"


def peak_memory(rival: bool) -> int:
    """Growth of this process's peak, in bytes, over one step of atto's encoder on 32 images.

    A step on one image comes first: libraries, weights, gradients and compiled code are there.
    """
    model = dense(model_of("convnextv2_atto")) if rival else model_of("convnextv2_atto")
    images, visible = batch_of(32, 224, model.n, model.ratio)
    step(model.encoder, images[:1], visible[:1])
    before = high_water()
    step(model.encoder, images, visible)
    return high_water() - before


def high_water() -> int:
    """Largest resident memory of this process so far, in bytes, as Linux counts it.

    Not getrusage's: there a new process begins with the peak of the one that started it.
    """
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])
