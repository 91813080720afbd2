"""Runs with SparK's UNet resume, share their steps, convert and are looked at as plain ones are."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import fcmae
from fcmae import FCMAE
from fcmae.masking import draw_visible
from fcmae.reconstruction import VIEWS
from fcmae.run import checkpoint
from fcmae.weights.files import read_weights
from fcmae.weights.loading import load_decoder
from finetune.exploring.drawing import pillow
from finetune.exploring.explored import load
from tests.support.generators import generator
from tests.support.programs import ROOT
from tests.support.runs import assert_same_bits, losses, newest, pretrain

pytestmark = pytest.mark.slow

CHANGES: dict[str, Any] = {
    "data": {"train": str(ROOT / "data/demo/train-000000.tar.gz"), "workers": 0},
    "model": {"decoder": "unet", "decoder_dim": 32},
    "optim": {"steps": 4, "batch_size": 8},
    "run": {"log_every": 1, "save_every": 2},
    "watch.images": 8,
}


def train(folder: Path, **changes: object) -> Path:
    return fcmae.pretrain("demo", {**CHANGES, **changes, "run.dir": folder}).directory


def assert_same_steps(run: Path, other: Path) -> None:
    """Equal up to rounding: losses, and weights by the way that a step of AdamW goes."""
    (steps, ours), (expected, theirs) = (zip(*losses(each), strict=True) for each in (run, other))
    assert steps == expected
    assert ours == pytest.approx(theirs, rel=1e-4)
    mine, its = (load_file(newest(each) / checkpoint.MODEL) for each in (run, other))
    apart = torch.cat([(mine[name] - its[name]).flatten() for name in its])
    assert apart.norm() < 0.01 * torch.cat([x.flatten() for x in its.values()]).norm()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("unet") / "run", **{"optim.ema": 0.9})


def test_a_resumed_run_is_the_uninterrupted_one(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "step_0000004")
    assert_same_bits(train(tmp_path / "run", **{"optim.ema": 0.9}), finished)


def test_accumulation_changes_memory_not_the_step(finished: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "run", **{"optim.ema": 0.9, "optim.accumulate": 4})
    assert_same_steps(run, finished)


@pytest.mark.dist
@pytest.mark.parametrize("env", [{}, {"ACCELERATE_USE_FSDP": "true"}], ids=["ddp", "fsdp2"])
def test_two_processes_take_the_steps_of_one(
    env: dict[str, str], finished: Path, tmp_path: Path
) -> None:
    flags = ("--model.decoder", "unet", "--optim.steps", "4", "--optim.ema", "0.9")
    data = ("--data.train", CHANGES["data"]["train"], "--data.workers", "0")
    done = pretrain(tmp_path / "run", *flags, *data, world=2, env=env)
    assert done.returncode == 0, done.stderr
    assert_same_steps(tmp_path / "run", finished)


def test_weights_are_read_without_the_decoder(finished: Path) -> None:
    weights = read_weights(str(finished))
    saved = load_file(newest(finished) / checkpoint.MODEL)
    decoder = [name for name in saved if name.startswith("decoder.")]
    assert any("densify" in name for name in decoder)
    assert weights.dropped == {"decoder": len(decoder)}
    assert len(weights.tensors) == len(saved) - len(decoder)


def test_a_decoder_of_the_other_kind_is_not_loaded(finished: Path) -> None:
    options: dict[str, Any] = {"image_size": 32, "stem_stride": 1, "decoder_dim": 32}
    same = FCMAE(**options, decoder="unet").decoder
    assert load_decoder(same, finished) == f"decoder from {newest(finished)}"
    with pytest.raises(ValueError, match=r"holds another model: .* use the model options"):
        load_decoder(FCMAE(**options).decoder, finished)


def test_the_page_shows_the_reconstructions_of_the_library(finished: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    theirs = fcmae.reconstruct(finished, Image.fromarray(pixels), seed=3)
    shown = load(str(finished), torch.device("cpu"), print)
    _, transform = fcmae.load(finished)
    image = transform(Image.fromarray(pixels))
    visible = draw_visible(1, 16, shown.ratio, generator=generator(3))[0]
    stages = shown.stages(image[None], visible[None])
    for name, view in zip(VIEWS, shown.views(image, visible, stages), strict=True):
        ours = np.asarray(pillow(view)).astype(int)
        # one of the two rounds, the other cuts off
        assert np.abs(ours - np.asarray(getattr(theirs, name))).max() <= 1, name
    assert theirs.prediction.getextrema() != theirs.visible.getextrema()
