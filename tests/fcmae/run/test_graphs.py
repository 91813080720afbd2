"""What can be said of CUDA graphs without a GPU; `tests/pretraining/test_gpu.py` says the rest."""

from pathlib import Path

import pytest
import torch

from fcmae import FCMAE, draw_visible
from fcmae.contrast_config import ContrastConfig
from fcmae.run.graphs import Step, own_gradients, record
from tests.support.runs import pretrain

ON_CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")


@ON_CPU
def test_a_model_that_cannot_be_recorded_ends_a_run_in_one_line() -> None:
    model = FCMAE(image_size=64, depths=(1, 1, 1, 1))
    inputs = torch.randn(2, 3, 64, 64), draw_visible(2, model.n, model.ratio)
    with pytest.raises(ValueError, match=r"run.cuda_graphs=True: a step cannot be recorded \("):
        record(model, inputs, lambda: torch.autocast("cpu", enabled=False))


def test_only_the_loss_of_a_recorded_step_has_a_gradient() -> None:
    model = FCMAE(image_size=64, depths=(1, 1, 1, 1), contrast=ContrastConfig(weight=0.5))
    step = Step(model, lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    loss, prediction, terms = step(torch.randn(4, 3, 64, 64), draw_visible(4, model.n, model.ratio))
    assert loss.requires_grad
    assert not any(value.requires_grad for value in (prediction, *terms.values()))
    assert not torch.is_autocast_enabled("cpu")
    assert prediction.dtype == torch.bfloat16


def test_gradients_are_taken_out_of_the_memory_that_is_filled_again() -> None:
    layer = torch.nn.Linear(2, 3)
    layer.weight.grad = memory = torch.ones(3, 2)
    own_gradients(layer)
    memory.fill_(7)
    assert layer.weight.grad.eq(1).all()
    assert layer.bias.grad is None


@ON_CPU
def test_a_run_on_a_cpu_cannot_have_them(tmp_path: Path) -> None:
    done = pretrain(tmp_path / "run", "--run.cuda_graphs", "True")
    rule = "run.cuda_graphs=True needs a GPU of CUDA, and this run is on cpu"
    assert f"error: {rule}: leave it out" in done.stderr
