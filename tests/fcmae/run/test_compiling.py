"""What of a model is compiled, and that a first step before all others leaves no trace."""

import os
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from fcmae import FCMAE
from fcmae.run.compiling import CACHE, Granularity, keep_code, parts_of, rehearse


@pytest.mark.parametrize(
    ("granularity", "kinds"),
    [
        ("block", {"Stem": 1, "Block": 13, "Downsample": 3, "ReconstructionLoss": 1}),
        ("stage", {"Stem": 1, "Stage": 4, "Block": 1, "ReconstructionLoss": 1}),
        ("model", {"FCMAE": 1}),
    ],
)
def test_blocks_stages_or_the_model_are_compiled(
    granularity: Granularity, kinds: dict[str, int]
) -> None:
    model = FCMAE(image_size=64)  # atto has 12 blocks, and the decoder one
    assert Counter(type(part).__name__ for part in parts_of(model, granularity)) == kinds


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [("resnet18", "BasicBlock", 8), ("vit_tiny_patch16_224", "Block", 12), ("vgg11", "VGG", 1)],
)
def test_what_repeats_in_any_network_is_compiled(name: str, kind: str, count: int) -> None:
    parts = parts_of(timm.create_model(name, num_classes=2), "block")
    assert [type(part).__name__ for part in parts] == [kind] * count


def test_a_rehearsal_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    rehearse(model, (torch.randn(2, 3, 8, 8, generator=torch.Generator()),), nullcontext)
    assert torch.equal(torch.rand(3), expected)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(weight.grad is None for weight in model.parameters())


def test_nor_does_one_that_fails() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(2, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(RuntimeError):
        rehearse(model, (torch.randn(2, 3, 8, 8),), nullcontext)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_code_lies_beside_the_run_unless_a_user_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CACHE, raising=False)
    keep_code(None, tmp_path / "runs" / "mine")
    assert os.environ[CACHE] == str(tmp_path / "runs" / ".compile")
    keep_code(None, tmp_path / "elsewhere" / "mine")
    assert os.environ[CACHE] == str(tmp_path / "runs" / ".compile")  # as the user may have set it
    keep_code(tmp_path / "given", tmp_path / "runs" / "mine")
    assert os.environ[CACHE] == str(tmp_path / "given")
    monkeypatch.delenv(CACHE)
