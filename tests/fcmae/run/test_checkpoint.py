"""Checkpoints: whole or absent, checked, kept as asked, and never lost to a full disk."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from fcmae import FCMAE
from fcmae.run import checkpoint
from fcmae.run.checkpoint import TrainState
from fcmae.run.ema import Ema
from tests.support.models import after_a_step


def save(run: Path, *steps: int) -> tuple[FCMAE, torch.optim.Optimizer]:
    model, optimizer = after_a_step()
    for step in steps:
        files = checkpoint.snapshot(model, optimizer)
        checkpoint.save(run, TrainState(step, step * 8), files, "{}")
    return model, optimizer


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    model, optimizer = after_a_step()
    averages = Ema(model.encoder, 0.5, "encoder.").averages
    state = TrainState(3, 24, {"scale": 2.0, "_growth_tracker": 1})
    files = checkpoint.snapshot(model, optimizer, averages)
    path = checkpoint.save(tmp_path, state, files, "a: 1\n")
    other, fresh = FCMAE(image_size=32, stem_stride=1, decoder_dim=32), None
    fresh = torch.optim.AdamW(other.parameters(), fused=True)
    averaged = Ema(other.encoder, 0.5, "encoder.").averages
    assert checkpoint.load(path, other, fresh, averaged) == state
    again = checkpoint.snapshot(other, fresh, averaged)
    assert again.keys() == files.keys()
    for file, tensors in files.items():
        assert tensors.keys() == again[file].keys()
        assert all(torch.equal(tensors[name], again[file][name]) for name in tensors)
    assert (path / checkpoint.CONFIG).read_text() == "a: 1\n"


def test_a_snapshot_is_what_was_and_not_what_became_of_it(tmp_path: Path) -> None:
    model, optimizer = after_a_step()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    files = checkpoint.snapshot(model, optimizer)
    optimizer.step()
    assert all(torch.equal(files[checkpoint.MODEL][name], before[name]) for name in before)


def test_what_a_kill_left_behind_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "step_0000009.tmp").mkdir()
    save(tmp_path, 1)
    assert names(tmp_path) == ["step_0000001"]


@pytest.mark.parametrize("file", [checkpoint.MODEL, checkpoint.OPTIMIZER, checkpoint.STATE])
@pytest.mark.parametrize("damage", ["truncated", "one bit", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    tmp_path: Path, file: str, damage: str
) -> None:
    save(tmp_path, 1, 2)
    damaged = tmp_path / "step_0000002" / file
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        damaged.unlink()
    else:
        damaged.write_bytes(content if damage == "one bit" else content[:-1])
    told: list[str] = []
    assert checkpoint.newest_whole(tmp_path, told.append) == tmp_path / "step_0000001"
    (line,) = told
    assert f"checkpoint {tmp_path}/step_0000002 is damaged" in line
    assert file in line
    assert "going back to the one before" in line


def test_no_whole_checkpoint_is_an_error_and_none_at_all_a_start(tmp_path: Path) -> None:
    assert checkpoint.newest_whole(tmp_path, print) is None
    save(tmp_path, 1)
    (tmp_path / "step_0000001" / checkpoint.SUMS).unlink()
    with pytest.raises(ValueError, match=r"all 1 checkpoints of .* are damaged: restore one, or"):
        checkpoint.newest_whole(tmp_path, print)


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    (tmp_path / "step_0000002" / checkpoint.MODEL).write_bytes(b"")
    save(tmp_path, 2)
    checkpoint.check(tmp_path / "step_0000002")
    assert names(tmp_path) == ["step_0000001", "step_0000002"]


def test_another_model_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    other, optimizer = after_a_step(decoder_dim=64)
    with pytest.raises(ValueError, match=r"holds another model: \d+ tensors differ"):
        checkpoint.load(tmp_path / "step_0000001", other, optimizer)


def test_the_sums_are_those_that_sha256sum_checks(tmp_path: Path) -> None:
    save(tmp_path, 1)
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", checkpoint.SUMS],
        cwd=tmp_path / "step_0000001",
        capture_output=True,
    )
    assert done.returncode == 0


def test_the_state_is_readable_text(tmp_path: Path) -> None:
    save(tmp_path, 5)
    state = json.loads((tmp_path / "step_0000005" / checkpoint.STATE).read_text())
    assert state == {"step": 5, "samples_seen": 40, "scaler": {}, "bad": {}}


def test_a_resumed_step_equals_an_uninterrupted_one_with_channels_last(tmp_path: Path) -> None:
    def start() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Conv2d(8, 16, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model, torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)

    def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(seed)
        model(torch.randn(2, 8, 9, 9, generator=generator)).square().mean().backward()
        optimizer.step()

    model, optimizer = start()
    step(model, optimizer, 0)
    path = checkpoint.save(tmp_path, TrainState(1, 2), checkpoint.snapshot(model, optimizer), "{}")
    resumed, fresh = start()
    checkpoint.load(path, resumed, fresh)
    step(model, optimizer, 1)
    step(resumed, fresh, 1)
    for ours, theirs in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
