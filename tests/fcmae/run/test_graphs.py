"""What can be said of CUDA graphs without a GPU; `tests/pretraining/test_gpu.py` says the rest."""

from pathlib import Path

import pytest
import torch

from fcmae import FCMAE, draw_visible
from fcmae.run.graphs import own_gradients, replayed
from tests.support.runs import pretrain


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_a_model_that_cannot_be_recorded_stays_as_it_is_and_a_line_says_why() -> None:
    model = FCMAE(image_size=64, depths=(1, 1, 1, 1))
    inputs = torch.randn(2, 3, 64, 64), draw_visible(2, model.n, model.ratio)
    before = model(*inputs)
    told = list[str]()
    assert not replayed(model, inputs, lambda: torch.autocast("cpu", enabled=False), told.append)
    assert [line.partition(" (")[0] for line in told] == [
        "not recorded as a CUDA graph, so that each kernel is launched by itself"
    ]
    torch.testing.assert_close(model(*inputs), before, rtol=0, atol=0)


def test_gradients_are_taken_out_of_the_memory_that_is_filled_again() -> None:
    layer = torch.nn.Linear(2, 3)
    layer.weight.grad = memory = torch.ones(3, 2)
    own_gradients(layer)
    memory.fill_(7)
    assert layer.weight.grad.eq(1).all()
    assert layer.bias.grad is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_a_run_on_a_cpu_cannot_have_them(tmp_path: Path) -> None:
    done = pretrain(tmp_path / "run", "--run.cuda_graphs", "True")
    rule = "run.cuda_graphs=True needs a GPU of CUDA, and this run is on cpu"
    assert f"error: {rule}: leave it out" in done.stderr
