"""ConvMAE goes all the way that a ConvNeXt goes, by the same programs."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fcmae.run import checkpoint
from fcmae.weights.conversion import convert
from finetune.models import classifier
from tests.support.programs import run
from tests.support.runs import assert_same_bits, kill_and_resume, losses, newest, pretrain

CONVMAE = ("--model.name", "convmae_small", "--model.stem_stride", "2", "--model.ratio", "0.75")
CONVMAE += ("--model.decoder_depth", "1")
DEMO = ("--data.train", "data/demo/train-000000.tar.gz")
DEMO += ("--data.test", "data/demo/test-000000.tar.gz", "--data.workers", "0")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "convmae"
    result = pretrain(run, *CONVMAE)
    assert result.returncode == 0, result.stderr
    return run


def test_a_run_that_was_killed_equals_one_that_was_not(finished: Path, tmp_path: Path) -> None:
    saved = tmp_path / "run" / "step_0000002"
    kill_and_resume(tmp_path / "run", *CONVMAE, when=saved.exists)
    assert_same_bits(tmp_path / "run", finished)
    assert losses(finished)[-1][1] < losses(finished)[0][1]


@pytest.mark.dist
def test_two_processes_see_what_one_sees(finished: Path, tmp_path: Path) -> None:
    result = pretrain(tmp_path / "run", *CONVMAE, world=2)
    assert result.returncode == 0, result.stderr
    ours, theirs = (torch.tensor(losses(r)) for r in (tmp_path / "run", finished))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    a, b = (load_file(newest(r) / checkpoint.MODEL) for r in (tmp_path / "run", finished))
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in b)


def test_its_weights_are_tuned(finished: Path, tmp_path: Path) -> None:
    common = (*DEMO, "--weights", str(finished))
    short = ("--optim.steps", "2", "--optim.batch_size", "8", "--optim.layer_decay", "0.65")
    out = tmp_path / "tuned.json"
    done = run("-m", "finetune.train", *common, *short, "--drop_path", "0.1", "--out", out)
    assert done.returncode == 0, done.stderr
    tuned = out.with_suffix("") / "weights.safetensors"
    model, _, task = classifier.load(tuned)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, task.outputs)
    told = convert(tuned, tmp_path / "again.pth", to="official")
    assert f"classifier of {task.outputs} classes kept" in told
