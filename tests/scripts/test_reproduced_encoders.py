"""The encoders and rivals that are for tables alone, and runs of them, of a few steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fcmae import FCMAE, draw_visible
from fcmae.architecture import Architecture
from fcmae.encoder import Encoder
from fcmae.layers import initialise
from fcmae.responses import respond
from finetune.models import classifier
from finetune.models.config import BackboneConfig, RandomConfig
from scripts.reproducing import rivals
from scripts.reproducing.ablations import BASE, VARIANTS, Ablations
from scripts.reproducing.altered import KINDS, altered
from scripts.reproducing.data_sets import EMOJI, DataSet
from scripts.reproducing.dense_encoder import DenseEncoder
from scripts.reproducing.programs import start
from scripts.reproducing.results import Results
from scripts.reproducing.runs import Making
from scripts.reproducing.setting import Setting
from tests.support.generators import generator
from tests.support.programs import ROOT
from tests.support.shards import write_colours

ATTO = Architecture(image_size=32, stem_stride=1)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """No results yet."""
    return Results(tmp_path / "results" / "some.json")


@pytest.mark.parametrize("tokens", [False, True])
def test_hidden_pixels_never_reach_the_dense_encoder_and_hidden_sites_do(tokens: bool) -> None:
    sparse = Encoder(ATTO)
    initialise(sparse, generator(0))
    encoder = DenseEncoder(sparse, tokens=tokens)
    images = torch.randn(2, 3, 32, 32, generator=generator(1))
    visible = draw_visible(2, 16, 0.6, generator=generator(2))
    with torch.no_grad():
        if tokens:
            assert encoder.mask_token is not None
            encoder.mask_token.add_(torch.randn(40, generator=generator(3)))
        found = encoder(images, visible)
        changed = images.clone()
        hidden = ~visible.view(2, 4, 4).repeat_interleave(8, 1).repeat_interleave(8, 2)
        changed.masked_fill_(hidden[:, None], float("nan"))
        assert torch.equal(encoder(changed, visible), found)
        assert not torch.allclose(sparse(images, visible), found, atol=1e-3)
        everything = torch.ones_like(visible)
        torch.testing.assert_close(
            encoder(images, everything), sparse(images, everything), rtol=1e-4, atol=1e-5
        )  # other convolution kernels


def test_a_look_at_whole_images_sees_of_the_dense_encoder_what_it_sees_of_the_sparse_one() -> None:
    sparse = Encoder(ATTO)
    initialise(sparse, generator(0))
    images = torch.randn(2, 3, 32, 64, generator=generator(1))
    expected, found = (respond(one, images) for one in (sparse, DenseEncoder(sparse, tokens=True)))
    torch.testing.assert_close(found.features, expected.features, rtol=1e-4, atol=1e-5)
    assert found.strides == expected.strides
    for one, other in zip(found.stages, expected.stages, strict=True):
        torch.testing.assert_close(one.values, other.values, rtol=1e-4, atol=1e-5)
        assert torch.equal(one.channels, other.channels)
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.columns, other.columns)


@pytest.mark.parametrize("kind", KINDS)
def test_an_altered_model_begins_with_the_weights_of_the_unaltered_one(kind: str) -> None:
    options: dict[str, Any] = {"image_size": 32, "stem_stride": 1, "decoder_dim": 32}
    with altered(kind):
        model = FCMAE(**options, generator=generator(0))
    unaltered = FCMAE(**options, generator=generator(0))
    assert type(unaltered.encoder) is Encoder  # nothing is left of it
    weights = model.state_dict()
    assert not weights.pop("encoder.mask_token", torch.zeros(40)).any()
    assert weights.keys() == unaltered.state_dict().keys()
    assert all(weights[name].equal(one) for name, one in unaltered.state_dict().items())
    visible = draw_visible(2, 16, 0.6, generator=generator(2))
    images = torch.randn(2, 3, 32, 32, generator=generator(1))
    losses = [m(images, visible)[0] for m in (model, unaltered)]
    assert losses[0].equal(losses[1]) == (kind == "no_grn")
    losses[0].backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(".grn." in name for name in learned if name.startswith("decoder."))
    of_encoder = any(".grn." in name for name in learned if name.startswith("encoder."))
    assert of_encoder == (kind != "no_grn")


def test_the_network_that_is_fine_tuned_without_grn_does_not_learn_it() -> None:
    random = RandomConfig(image_size=32, stem_stride=1)
    with altered("no_grn"):
        model, _ = classifier.create(BackboneConfig(weights="none", random=random), 3, 0)
    model(torch.randn(2, 3, 32, 32, generator=generator(1))).square().sum().backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(".mlp.fc1." in name for name in learned)
    assert not [name for name in learned if ".grn." in name]


def colours(folder: Path) -> DataSet:
    """A small data set."""
    (folder / "classes.json").write_text('["red", "green", "blue"]')
    train, test = write_colours(folder, "train", 24), write_colours(folder, "test", 9)
    return replace(EMOJI, train=train, test=test, group="object")


@pytest.mark.slow
@pytest.mark.parametrize("altered", ["tokens", "no_grn"])
def test_an_ablation_is_pretrained_and_used_end_to_end(
    tmp_path: Path, results: Results, altered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    setting = Setting(folder=tmp_path / "runs", data={"emoji": colours(tmp_path)}, dry=True)
    variant = next(variant for variant in (BASE, *VARIANTS) if variant.altered == altered)
    runs = Ablations().of(setting, variant, 0)
    making = Making(results, start)
    making.all(runs)
    assert not making.failed
    pretrained, probe, fit = (results.entries[run.name] for run in runs)
    assert pretrained.kept["steps"] == 2
    assert probe.kept.keys() == {"1_per_class pretrained probe"}
    assert len(fit.kept["1_per_class pretrained finetune"]["accuracy"]) == 1
    assert pretrained.commands[0].startswith(f"altered {altered} pretrain scripts/recipes/demo")
    assert pretrained.processor_seconds > 0
    weights = load_file(runs[0].makes)
    assert "mask_token" not in weights
    grn = torch.stack([w.abs().max() for name, w in weights.items() if ".grn." in name])
    assert (grn == 0).all() == (altered == "no_grn")
    if altered == "no_grn":
        assert len(pretrained.kept["collapse"]) == 12
    assert not [path for path in (tmp_path / "runs").rglob("step_*") if path.is_dir()]


@pytest.mark.slow
def test_a_rival_without_masks_is_pretrained_and_converted(
    tmp_path: Path, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lightly", reason="lightly, of the extra rivals, is not installed")
    monkeypatch.chdir(ROOT)
    setting = Setting(folder=tmp_path / "runs", data={"emoji": colours(tmp_path)}, dry=True)
    method = next(method for method in rivals.METHODS if method.program == "simclr")
    timed = next(rivals.Rivals().of(setting, setting.data["emoji"], method))
    making = Making(results, start)
    making.all([timed])
    assert not making.failed
    assert results.kept(timed.name)["images"] == 2 * method.flags["optim.batch_size"]
    assert "proj" not in {name.partition(".")[0] for name in load_file(timed.makes)}
