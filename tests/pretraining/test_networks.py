"""Runs of timm's networks with batch norm: killed, on several processes, what comes of them."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from fcmae.run import checkpoint
from fcmae.weights.conversion import convert
from tests.support.programs import lines_of
from tests.support.runs import (
    UNSEEN,
    assert_close,
    assert_same_bits,
    kill_and_resume,
    logged,
    newest,
    pretrain,
)

NAME = "mobilenetv3_small_050"
FLAGS = ("--model.name", f"timm:{NAME}", "--optim.accumulate", "2", "--optim.ema", "0.9")
FLAGS += UNSEEN


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "alone"
    done = pretrain(run, *FLAGS)
    assert done.returncode == 0, done.stderr
    return run


def statistics(path: Path) -> dict[str, torch.Tensor]:
    """The running statistics of batch norm in a file."""
    return {name: t for name, t in load_file(path).items() if ".running_" in name}


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_have_the_statistics_of_their_visible_sites_in_common(
    world: int, alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = pretrain(run, *FLAGS, world=world)
    assert done.returncode == 0, done.stderr
    assert_close(run, alone, rtol=1e-4)
    for file in (checkpoint.MODEL, checkpoint.EMA):
        ours, theirs = (statistics(newest(r) / file) for r in (run, alone))
        assert ours
        torch.testing.assert_close(ours, theirs, rtol=5e-3, atol=1e-4)


def test_statistics_are_of_micro_batches_whose_number_stays(alone: Path) -> None:
    tensors = load_file(newest(alone) / checkpoint.MODEL)
    assert tensors["encoder.net.bn1.num_batches_tracked"] == 12  # of six steps
    done = pretrain(alone, *FLAGS, "--optim.accumulate", "4")
    assert done.returncode == 1
    assert "optim.accumulate: 2 -> 4" in done.stderr


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_by_bit(alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    kill_and_resume(run, *FLAGS, when=logged(run, 3))
    assert_same_bits(run, alone)


@pytest.mark.parametrize("file", [checkpoint.MODEL, checkpoint.EMA])
def test_converted_weights_are_timm_s_with_their_running_statistics(
    file: str, alone: Path, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    told = convert(newest(alone) / file, path)
    assert f"timm:{NAME}, step 6" in told
    net = timm.create_model(NAME, num_classes=0, checkpoint_path=path)
    ours = {
        name.removeprefix("encoder.net."): tensor
        for name, tensor in load_file(newest(alone) / file).items()
        if name.startswith("encoder.")
    }
    loaded = net.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in ours.items())
    assert loaded["bn1.running_var"].ne(1).all()
    again = tmp_path / "again.safetensors"
    convert(newest(alone) / file, again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--model.name", "timm:vit_tiny_patch16_224"), "has no maps of features [b, c, h, w]"),
        (("--model.name", "timm:resnet18", "--model.image_size", "36"), "try 32 or 40"),
    ],
)
def test_a_network_that_does_not_go_ends_the_run_in_one_line(
    flags: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    done = pretrain(tmp_path / "run", *flags)
    assert done.returncode == 1
    (line,) = lines_of(done.stderr)
    assert line.startswith("error: ")
    assert told in line
