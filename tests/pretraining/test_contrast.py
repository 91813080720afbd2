"""Runs with the contrastive term: processes agree, a killed one goes on, a second stage begins."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fcmae
from fcmae import FCMAE
from fcmae.run import checkpoint
from fcmae.run.metrics import read_metrics
from fcmae.weights.conversion import convert
from fcmae.weights.files import read_weights
from tests.support.generators import generator
from tests.support.models import saved_run
from tests.support.programs import ROOT, lines_of
from tests.support.runs import (
    assert_close,
    assert_same_bits,
    kill_and_resume,
    logged,
    newest,
    pretrain,
)

pytestmark = pytest.mark.slow

TERM = ("--model.contrast.weight", "1", "--model.contrast.neighbours", "24")
TERM += ("--model.contrast.hidden", "64", "--model.contrast.dim", "16")
FSDP = {"ACCELERATE_USE_FSDP": "true"}
TERMS = {"reconstruction", "contrast", "alignment", "uniformity"}


def refine(run: Path, source: Path, seed: int) -> Path:
    """A second stage in this process, which goes nowhere, since its learning rate is 0."""
    changes = {
        "data.train": str(ROOT / "data/demo/train-000000.tar.gz"),
        "data.workers": 0,
        "init": {"weights": source, "decoder": True},
        "model": {"decoder_dim": 32, "contrast.weight": 1},
        "optim": {"steps": 1, "batch_size": 4, "base_lr": 0},
        "run": {"picture_every": 0, "dir": run},
        "watch.images": 0,
        "seed": seed,
    }
    return fcmae.pretrain("demo", changes).directory


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "alone"
    done = pretrain(run, *TERM)
    assert done.returncode == 0, done.stderr
    return run


def gradients(run: Path) -> torch.Tensor:
    """What AdamW remembers of the projector's gradients, which only the contrastive term gives."""
    moments = load_file(newest(run) / checkpoint.OPTIMIZER)
    names = [n for n in moments if n.startswith("contrast.") and n.endswith(":exp_avg")]
    return torch.cat([moments[name].flatten() for name in names])


def test_both_terms_are_logged_and_make_up_the_loss(alone: Path) -> None:
    lines = read_metrics(alone)
    for line in lines:
        assert line.keys() >= TERMS
        assert line["loss"] == pytest.approx(line["reconstruction"] + line["contrast"], rel=1e-5)
    assert lines[-1]["samples_seen"] == 48
    assert len(list((alone / "pictures").iterdir())) == 2


@pytest.mark.dist
@pytest.mark.parametrize(
    ("world", "env"),
    [
        (2, {}),
        pytest.param(4, {}, marks=pytest.mark.slow),
        pytest.param(2, FSDP, marks=pytest.mark.slow),
    ],
)
def test_processes_compare_the_samples_of_all_of_them(
    world: int, env: dict[str, str], alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = pretrain(run, *TERM, world=world, env=env)
    assert done.returncode == 0, done.stderr
    assert_close(run, alone, rtol=1e-3)
    ours, theirs = gradients(run), gradients(alone)
    assert (ours - theirs).norm() < 0.02 * theirs.norm()
    queues = [load_file(newest(r) / checkpoint.MODEL)["contrast.queue"] for r in (run, alone)]
    torch.testing.assert_close(*queues, rtol=0, atol=1e-2)
    a, b = (read_metrics(r) for r in (run, alone))
    for name in TERMS:
        assert [line[name] for line in a] == pytest.approx([line[name] for line in b], rel=1e-2)


def test_a_killed_run_goes_on_bit_by_bit_its_queue_included(alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    kill_and_resume(run, *TERM, "--watch.collapse_every", "1", when=logged(run, 3))
    assert_same_bits(run, alone)
    assert all(len(line["collapse"]) == 12 for line in read_metrics(run))  # which feeds no queue


def test_a_second_stage_starts_from_all_of_a_run(tmp_path: Path) -> None:
    model = FCMAE(image_size=32, stem_stride=1, decoder_dim=32, generator=generator(9))
    told = {"name": "convnextv2_atto", "stem_stride": 1, "in_chans": 3}
    first = saved_run(tmp_path / "first", model, **told).parent
    second = refine(tmp_path / "second", first, seed=0)
    third = refine(tmp_path / "third", second, seed=5)
    began, refined, again = (
        load_file(newest(run) / checkpoint.MODEL) for run in (first, second, third)
    )
    assert all(torch.equal(refined[name], tensor) for name, tensor in began.items())
    new = refined.keys() - began.keys()
    assert {name.split(".")[1] for name in new} == {"projector"}
    assert all(torch.equal(again[name], tensor) for name, tensor in refined.items())


def test_the_converter_drops_projector_and_queue_by_name(alone: Path, tmp_path: Path) -> None:
    dropped = read_weights(alone).dropped
    assert dropped["projector of the contrastive term"] == 4
    assert dropped["queue of neighbours"] == 1
    told = convert(alone, tmp_path / "out.safetensors")
    assert "4 tensors of the projector of the contrastive term dropped" in told
    assert not [n for n in load_file(tmp_path / "out.safetensors") if "contrast" in n]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model.contrast.weight", "-1"), "model.contrast.weight=-1.0 must be at least 0"),
        (("--model.contrast.temperature", "0"), "temperature=0.0 must be above 0"),
        (("--model.contrast.dim", "0"), "model.contrast.dim=0 must be at least 1"),
        ((*TERM, "--optim.accumulate", "8"), "optim.batch_size=8 and optim.accumulate=8 leave one"),
    ],
)
def test_bad_values_end_in_one_line(flags: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = pretrain(tmp_path / "run", *flags)
    assert done.returncode == 1
    (line,) = lines_of(done.stderr)
    assert message in line
