"""The plan's closed formulas agree with what a model of that size costs."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recompute
from torch.utils.flop_counter import FlopCounterMode

from fcmae import FCMAE, convnexts, draw_visible
from fcmae.contrast_config import OFF, ContrastConfig
from fcmae.layers import GrnMlp
from fcmae.model_config import ModelConfig
from fcmae.run import checkpoint
from fcmae.run.checkpoint import MODEL, OPTIMIZER, TrainState
from fcmae.run.optim import OptimConfig
from fcmae.sparse.gathered import Gathered
from finetune.planning.costs import Part, contrast_part, decoder_part, encoder_parts
from scripts.plan import PlanConfig, main, plan
from tests.support.models import convnext_of, plain_of
from tests.support.programs import ROOT, run

FAMILIES = ("convnextv2_atto", "convnext_atto")
TERM = ContrastConfig(weight=1.0)
SIZES_AND_BATCHES = [(size, b) for size in (64, 96) for b in (1, 3)]


def as_on_gpus(**options: Any) -> FCMAE:
    """A model without compiled loops."""
    model = FCMAE(**options)
    for part in (convnext_of(model), plain_of(model.decoder)):
        part.sparse = partial(Gathered, compiled=False)
    return model


@pytest.fixture(autouse=True)
def layer_norm_as_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """LayerNorm in fp32 under autocast."""
    layer_norm = F.layer_norm
    monkeypatch.setattr(F, "layer_norm", lambda x, *rest: layer_norm(x.float(), *rest))


def config_of(b: int = 8, **model: Any) -> PlanConfig:
    """One process with a micro-batch of b images."""
    return PlanConfig(model=ModelConfig(**model), optim=OptimConfig(batch_size=b), gpus=1)


def batch_of(model: FCMAE, b: int) -> tuple[Tensor, Tensor]:
    return torch.randn(b, 3, *model.image_size), draw_visible(b, model.n, model.ratio)


def parts_of(model: FCMAE, config: ModelConfig, size: int = 4) -> list[Part]:
    """Stem, stages and decoder for one image."""
    encoder = encoder_parts(config, 1, model.v, model.n, size)
    return [*encoder, decoder_part(config, 1, model.v, model.n, size)]


def bytes_saved(model: torch.nn.Module, forward: Callable[[], object]) -> int:
    """Bytes of all storages that autograd saves, parameters apart.

    Indices (int64) are left out: the formulas do not count them, some thousandths of the whole.
    """
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage() for p in model.parameters()}
    parameters = set(storages)

    def pack(x: Tensor) -> Tensor:
        if x.is_floating_point():
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = forward()  # keeps the graph, so that no address is used twice
    total = sum(s.nbytes() for address, s in storages.items() if address not in parameters)
    del out
    return total


def convolution_backward(
    grad: list[int], x: list[int], weight: list[int], *rest: Any, out_shape: Any, **_: Any
) -> int:
    """PyTorch's own formula leaves groups out of the weight's gradient."""
    mask = rest[-1]
    per_gradient = 2 * grad[0] * grad[2] * grad[3] * torch.Size(weight).numel()
    return per_gradient * sum(mask[:2])


def addmm(total: list[int], a: list[int], b: list[int], **_: Any) -> int:
    """2 m k n of `addmm_`, which PyTorch's counter does not know."""
    return 2 * a[0] * a[1] * b[1]


@pytest.mark.parametrize(
    ("name", "in_chans", "stem_stride"),
    [
        *((name, 3, 4) for name in convnexts.NAMES if name not in FAMILIES),
        *((name, c, stride) for name in FAMILIES for c in (1, 3, 5) for stride in (4, 2, 1)),
    ],
)
def test_parameters_are_those_of_the_model(name: str, in_chans: int, stem_stride: int) -> None:
    options = {"name": name, "in_chans": in_chans, "stem_stride": stem_stride}
    with torch.device("meta"):
        model = as_on_gpus(**options, decoder_dim=96, decoder_depth=2)
    found = plan(config_of(**options, decoder_dim=96, decoder_depth=2))["model"]
    for part in ("encoder", "decoder"):
        counted = sum(p.numel() for p in getattr(model, part).parameters())
        assert found[f"{part}_parameters"] == counted


@pytest.mark.slow
@pytest.mark.parametrize("contrast", [OFF, TERM])
@pytest.mark.parametrize("stem_stride", [4, 1])
@pytest.mark.parametrize("name", FAMILIES)
def test_flops_are_those_that_pytorch_counts(
    name: str, stem_stride: int, contrast: ContrastConfig
) -> None:
    options = {"name": name, "image_size": (64, 96), "stem_stride": stem_stride}
    options["contrast"] = contrast
    model = as_on_gpus(**options)
    counter = FlopCounterMode(
        display=False,
        custom_mapping={
            torch.ops.aten.convolution_backward: convolution_backward,
            torch.ops.aten.addmm_: addmm,
        },
    )
    with counter:
        model(*batch_of(model, 2 * contrast.views))[0].backward()
    # db2 W2 of GRN's backward: once a micro-batch, whatever its size, so not in the plan
    mlps = [m for m in model.modules() if isinstance(m, GrnMlp)]
    counted = counter.get_total_flops() - sum(2 * mlp.fc2.weight.numel() for mlp in mlps)
    assert plan(config_of(2, **options))["step"]["global_flops"] == counted


def test_a_second_view_doubles_a_micro_batch_and_adds_the_projector() -> None:
    configs = [config_of(image_size=64, contrast=term) for term in (OFF, TERM)]
    plain, both = (plan(replace(config, precision="fp32")) for config in configs)
    model = as_on_gpus(image_size=64, contrast=TERM)
    projector = sum(p.numel() for p in model.parameters()) - sum(
        found for name, found in plain["model"].items() if name.endswith("coder_parameters")
    )
    added = both["model"]["decoder_parameters"] - plain["model"]["decoder_parameters"]
    assert added == projector
    assert both["micro_batch"]["images"] == 2 * plain["micro_batch"]["images"]
    saved = bytes_saved(model, partial(model, *batch_of(model, 16)))
    # the norms of vectors, and masks, are not counted
    assert both["micro_batch"]["activation_bytes"] == pytest.approx(saved, rel=1e-4)
    # each process projects the views of all
    model_config = configs[1].model
    assert contrast_part(model_config, 8, 2) == contrast_part(model_config, 16, 1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("size", "b"), SIZES_AND_BATCHES)
@pytest.mark.parametrize("name", FAMILIES)
def test_activations_are_what_autograd_saves(
    name: str, size: int, b: int, precision: Literal["fp32", "bf16"]
) -> None:
    model = as_on_gpus(name=name, image_size=size)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        saved = bytes_saved(model, partial(model, *batch_of(model, b)))
    config = replace(config_of(b, name=name, image_size=size), precision=precision)
    assert plan(config)["micro_batch"]["activation_bytes"] == saved


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_recomputing_keeps_the_inputs_of_the_stages(
    name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = as_on_gpus(name=name, image_size=96)
    parts = parts_of(model, ModelConfig(name=name, image_size=96), 4 if precision == "fp32" else 2)
    stem, *stages, decoder = parts
    for stage in convnext_of(model).stages:
        monkeypatch.setattr(
            stage, "forward", partial(recompute, stage.forward, use_reentrant=False)
        )
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        kept = bytes_saved(model, partial(model, *batch_of(model, 1)))
    assert kept == stem.saved + sum(stage.input for stage in stages) + decoder.saved


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_recomputed_stage_saves_what_its_part_says(name: str, precision: str) -> None:
    model = as_on_gpus(name=name, image_size=96)
    parts = parts_of(model, ModelConfig(name=name, image_size=96), 4 if precision == "fp32" else 2)
    images, visible = batch_of(model, 1)
    encoder = convnext_of(model)
    sparse = encoder.sparse(visible, model.grid, model.v)
    conv, norm = encoder.stem
    assert isinstance(conv, torch.nn.Conv2d)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        x = norm(sparse.stem(images, conv))
        for stage, part in zip(encoder.stages, parts[1:5], strict=True):
            x = x.detach().requires_grad_()
            assert x.nbytes == part.input
            assert bytes_saved(stage, partial(stage, x, sparse)) == part.saved
            x = stage(x, sparse)


def test_recomputing_peaks_where_the_most_stands_at_a_time() -> None:
    config = replace(config_of(1, image_size=224), precision="bf16")
    model = as_on_gpus(image_size=224)
    stem, one, two, three, four, decoder = parts_of(model, config.model, size=2)
    found = plan(config)["micro_batch"]["activation_recomputing_bytes"]
    assert found == stem.saved + max(
        one.input + one.saved,  # the input in fp32, and its copy in bf16
        one.input + two.saved,
        one.input + two.input + three.saved,
        one.input + two.input + three.input + four.saved,
        one.input + two.input + three.input + four.input + decoder.saved,
    )


def test_a_checkpoint_is_as_large_as_its_tensors(tmp_path: Path) -> None:
    model = as_on_gpus(image_size=32, stem_stride=1)
    optimizer = torch.optim.AdamW(model.parameters())
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    files = checkpoint.snapshot(model, optimizer)
    path = checkpoint.save(tmp_path, TrainState(1, 1), files, "")
    size = sum((path / name).stat().st_size for name in (MODEL, OPTIMIZER))
    found = plan(config_of(image_size=32, stem_stride=1))["model"]["checkpoint_bytes"]
    headers = 4 * len(list(model.parameters()))  # weight, two moments, step: a line for each
    assert 0 < size - found < 130 * headers


def test_ema_adds_the_encoder_to_checkpoint_and_memory() -> None:
    plain, ema = (
        plan(config_of()),
        plan(replace(config_of(), optim=OptimConfig(batch_size=8, ema=0.9))),
    )
    for section, name in (("model", "checkpoint_bytes"), ("ddp", "state_bytes")):
        added = ema[section][name] - plain[section][name]
        assert added == 4 * plain["model"]["encoder_parameters"]


@pytest.mark.parametrize("world", [2, 8])
def test_ddp_sends_each_gradient_twice_but_for_its_own_share(world: int) -> None:
    model = as_on_gpus(image_size=64)
    model(*batch_of(model, 1))[0].backward()
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    found = plan(replace(config_of(image_size=64), gpus=world))
    assert found["ddp"]["sent_bytes"] == round(2 * (world - 1) / world * gradients)


def test_state_is_that_of_adamw() -> None:
    model = as_on_gpus(image_size=64)
    optimizer = torch.optim.AdamW(model.parameters())
    model(*batch_of(model, 1))[0].backward()
    optimizer.step()
    tensors = [t for p in model.parameters() for t in (p, p.grad) if t is not None]
    tensors += [t for state in optimizer.state.values() for t in state.values() if t.ndim]
    size = sum(t.nbytes for t in tensors)
    one, eight = (plan(replace(config_of(image_size=64), gpus=gpus)) for gpus in (1, 8))
    assert one["ddp"]["state_bytes"] == one["fsdp2"]["state_bytes"] == size
    assert eight["ddp"]["state_bytes"] == size * 20 / 16  # the buckets
    assert eight["fsdp2"]["state_bytes"] == round(size / 8)


def test_one_process_sends_nothing_and_is_efficient() -> None:
    found = plan(config_of())
    for way in ("ddp", "fsdp2"):
        assert found[way]["sent_bytes"] == 0
        assert found[way]["efficiency"] == 1
        seconds = found["step"]["process_flops"] / (PlanConfig.tflops * 1e12)
        assert found[way]["step_s"] == pytest.approx(seconds)


def test_the_loader_needs_a_core_for_each_second_of_decoding_in_a_second() -> None:
    found = plan(replace(config_of(), image_ms=2.0))
    for way in ("ddp", "fsdp2"):
        images = found[way]["node_images_per_s"]
        assert found[way]["node_loader_cores"] == pytest.approx(0.002 * images)


def test_a_fast_network_is_hidden_but_for_the_last_bucket() -> None:
    config = replace(config_of(4096, name="convnextv2_base"), nodes=4, gpus=8)
    found, bucket = plan(config), 25 * 2**20
    compute = found["step"]["process_flops"] / (config.tflops * 1e12)
    exposed = 2 * 31 / 32 * bucket / (config.network_gb_s * 1e9)
    assert found["ddp"]["step_s"] == pytest.approx(compute + exposed)
    assert found["fsdp2"]["efficiency"] == 1


def test_a_slow_network_takes_the_step() -> None:
    config = replace(config_of(64), nodes=8, gpus=8, network_gb_s=0.001)
    for way in plan(config)["ddp"], plan(config)["fsdp2"]:
        assert way["step_s"] == pytest.approx(way["sent_bytes"] / 1e6, rel=0.01)


def test_recipes_of_pretraining_serve(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(ROOT / "scripts/recipes/imagenet.yaml")
    main([recipe, "--model.name", "convnextv2_tiny", "--nodes", "4", "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["micro_batch"]["images"] == 4096 / 32
    assert found["model"]["encoder_parameters"] == pytest.approx(28.6e6, rel=0.03)


def test_json_is_one_object_on_the_last_line_alone(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--json"])
    *table, last = capsys.readouterr().out.splitlines()
    assert json.loads(last).keys() == {"model", "step", "micro_batch", "ddp", "fsdp2"}
    assert not any("{" in line for line in table)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model.name resnet50", "model name='resnet50' is none of convnextv2_atto"),
        ("--model.stem_stride 3", "stem_stride=3 must be 4, 2 or 1"),
        ("--model.sparse reference", "model.sparse=reference has other costs; take gathered"),
        ("--model.decoder unet", "model.decoder=unet has other costs; take plain, or time a few"),
        ("--model.name mae_vit_tiny", "model.name=mae_vit_tiny has other costs than the ConvNeXts"),
        ("--model.in_chans 0", "model.in_chans=0 must be at least 1"),
        ("--model.decoder_depth -1", "model.decoder_depth=-1 must be at least 0"),
        ("--model.image_size 200", "image_size=200 must be a multiple of patch_size=32; try 192"),
        ("--model.ratio 0", "ratio=0.0 hides none of 49 patches, so there is nothing to predict;"),
        ("--gpus 0", "gpus=0 must be at least 1"),
        ("--tflops nan", "tflops=nan must be a finite number"),
        ("--tflops 0", "tflops=0.0 must be above 0"),
        (
            "--optim.batch_size 100",
            "optim.batch_size=100 must be a multiple of nodes x gpus x optim.accumulate"
            " = 1 x 8 x 1; try 104",
        ),
    ],
)
def test_what_is_out_of_range_is_named_with_a_way_out(flags: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}.*$"):  # of one line
        main(flags.split())


@pytest.mark.parametrize(
    ("words", "flag"), [(["--help"], "--dir "), (["imagenet", "--help"], "--nodes ")]
)
def test_each_form_has_a_help_of_its_own(
    words: list[str], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(words)
    told = capsys.readouterr().out
    assert [name for name in ("--dir ", "--nodes ") if name in told] == [flag]


def test_a_plan_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"give images and hours, as in fcmae plan photos/ --hour"):
        main([])


def test_the_program_ends_in_one_line() -> None:
    done = run("scripts/plan.py", "--nodes", "0")
    assert done.returncode == 1
    assert done.stderr == "error: nodes=0 must be at least 1\n"
