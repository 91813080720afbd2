"""On a GPU: the values of the CPU, steps that never wait for it, and runs equal to the last bit."""

import json
import shutil
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from data.transforms import Normalise
from fcmae import FCMAE, draw_visible
from fcmae.contrast_config import ContrastConfig
from fcmae.run.compiling import compile_parts
from fcmae.run.computing import only_deterministic
from fcmae.run.graphs import own_gradients, record
from tests.support.programs import Program
from tests.support.runs import assert_same_bits, newest, start_pretraining

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that CUDA sees"),
]


def test_a_step_on_the_gpu_equals_that_on_the_cpu() -> None:
    model = FCMAE(image_size=64, generator=torch.Generator().manual_seed(0)).double()
    images, visible = torch.randn(2, 3, 64, 64).double(), draw_visible(2, 4, model.ratio)
    loss, _ = model(images, visible)
    loss.backward()
    expected = [p.grad for p in model.parameters()]
    model.zero_grad()
    model.cuda()
    found, _ = model(images.cuda(), visible.cuda())
    found.backward()
    torch.testing.assert_close(found.cpu(), loss, rtol=1e-10, atol=0)
    for p, gradient in zip(model.parameters(), expected, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad.cpu(), gradient, rtol=1e-8, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_step_in_bf16_never_waits_for_the_device() -> None:
    model = FCMAE(image_size=64).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    normalise = Normalise((0.5,), (0.25,), 3).cuda()
    pixels = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8).pin_memory()
    drawn = draw_visible(2, 4, model.ratio).pin_memory()
    losses = list[torch.Tensor]()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):  # the first one makes the optimiser's state
            images, visible = (x.to("cuda", non_blocking=True) for x in (pixels, drawn))
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss, _ = model(normalise(images), visible)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.stack(losses).isfinite().all()


RECORDED: dict[str, dict[str, Any]] = {
    "V2": {},
    "V1": {"name": "convnext_atto"},
    "SparK's decoder": {"decoder": "unet"},
    "a contrastive term with a queue": {"contrast": ContrastConfig(weight=0.3, neighbours=16)},
    "MAE": {"name": "mae_vit_tiny"},
    "ConvMAE": {"name": "convmae_small"},
}


@pytest.mark.parametrize("options", RECORDED.values(), ids=list(RECORDED))
@pytest.mark.parametrize("compiled", [False, True])
def test_replayed_steps_are_those_of_the_model(options: dict[str, Any], compiled: bool) -> None:
    """Losses, predictions and gradients to the last bit, while weights move, over micro-batches."""
    only_deterministic(True, strict=False)
    model = FCMAE(image_size=64, **options, generator=torch.Generator().manual_seed(0)).cuda()
    plain = deepcopy(model)
    autocast = partial(torch.autocast, "cuda", dtype=torch.bfloat16)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        visible = draw_visible(4, model.n, model.ratio)
        return torch.randn(4, 3, 64, 64).cuda(), visible.cuda()

    if compiled:
        for each in (model, plain):
            compile_parts(each, deterministic=True)
    record(model, batch(), autocast)
    outputs: dict[nn.Module, Any] = {}
    for _ in range(2):
        model.zero_grad()
        plain.zero_grad()
        for micro in range(2):
            inputs = batch()
            for each in (model, plain):
                with autocast():
                    outputs[each] = each(*inputs)
                outputs[each][0].backward()
            if micro == 0:
                own_gradients(model)
            torch.testing.assert_close(outputs[model], outputs[plain], rtol=0, atol=0)
        for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)
            with torch.no_grad():
                moved = 0.1 * torch.randn_like(ours)
                ours += moved
                theirs += moved
    inputs = batch()
    with torch.no_grad(), autocast():
        torch.testing.assert_close(model.eval()(*inputs), plain.eval()(*inputs))


def finished(*programs: Program) -> list[str]:
    """What programs have printed that end well."""
    told = [program.communicate(timeout=400)[0] for program in programs]
    assert [program.returncode for program in programs] == [0] * len(programs), told
    return told


def test_two_runs_and_a_resumed_one_are_equal_to_the_last_bit(tmp_path: Path) -> None:
    modes = {
        "eager": ("--compile", "False"),
        "compiled": (),
        "replayed": ("--run.cuda_graphs", "True"),
    }

    def begin(mode: str, run: str) -> Program:
        cache = ("--run.compile_cache", str(tmp_path / f"{run}.compile"))
        return start_pretraining(tmp_path / mode / run, *modes[mode], *cache)

    # compiled twice without a cache, or an order of sums that is timed would pass unseen
    told = finished(*(begin(mode, run) for run in ("one", "two") for mode in modes))
    for mode in modes:
        resumed = tmp_path / mode / "resumed"
        shutil.copytree(tmp_path / mode / "one", resumed)
        shutil.rmtree(newest(resumed))  # as if it had been killed after the step before
    shutil.copytree(tmp_path / "one.compile", tmp_path / "resumed.compile")
    finished(*(begin(mode, "resumed") for mode in modes))
    assert_same_bits(tmp_path / "replayed" / "one", tmp_path / "compiled" / "one")
    for mode in modes:
        assert_same_bits(tmp_path / mode / "two", tmp_path / mode / "one")
        assert_same_bits(tmp_path / mode / "resumed", tmp_path / mode / "one")
    assert ", in bf16\n" in told[0]
    assert ", in bf16, compiled\n" in told[1]
    assert ", in bf16, compiled, as CUDA graphs\n" in told[2]
    starts = json.loads((tmp_path / "replayed" / "resumed" / "environment.json").read_text())
    assert [(start["compiled"], start["replayed"]) for start in starts] == [(True, True)] * 2
