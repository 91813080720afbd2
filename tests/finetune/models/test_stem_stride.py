"""A ConvNet of timm with fewer halvings is the same network wherever its weights are read."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fcmae
from fcmae.weights.conversion import convert
from fcmae.weights.timm_models import load_timm
from finetune.labels.tasks import Task
from finetune.models import classifier, segmenter
from finetune.models.backbone import backbone
from finetune.models.config import BackboneConfig, RandomConfig
from tests.support.models import saved_run, timm_features, trained

NAME = "timm:resnet10t"
TASK = Task(kind="class", field="", names=("a", "b"))


@pytest.fixture(scope="module", params=[1, 2])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    model = trained(NAME, request.param, 1)
    saved_run(folder, model, name=NAME, stem_stride=request.param, in_chans=1)
    return folder


@torch.no_grad()
def test_all_programs_make_the_network_that_was_pretrained(run: Path, tmp_path: Path) -> None:
    file, tuned = tmp_path / "w.safetensors", tmp_path / "tuned.safetensors"
    convert(run, file)
    start, metadata = backbone(str(run), RandomConfig())
    images = torch.randn(2, 1, *metadata.image_size, generator=torch.Generator().manual_seed(0))
    wanted = timm_features(start, images)
    assert wanted.shape[2:] == (2, 3)  # the patches of pretraining
    model, told = classifier.create(BackboneConfig(weights=str(file)), 2, 0)
    classifier.save(tuned, model, told, TASK)
    makers = {
        "converted": backbone(str(file), RandomConfig())[0],
        "api": fcmae.load(run)[0],
        "train": model,
        "predict": classifier.load(tuned)[0],
        "embed": load_timm(tuned)[0],
    }
    for what, made in makers.items():
        assert torch.equal(timm_features(made, images), wanted), what


@torch.no_grad()
def test_a_segmenter_is_read_with_the_stem_stride_that_it_was_trained_with(
    run: Path, tmp_path: Path
) -> None:
    file = tmp_path / "w.safetensors"
    model, metadata = segmenter.create(BackboneConfig(weights=str(run)), 2, 32, 0)
    segmenter.save(file, model, metadata, ("a", "b"))
    images = torch.randn(1, 1, *metadata.image_size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(segmenter.load(file)[0].eval()(images), model.eval()(images))


def test_a_backbone_of_timm_is_timms_own_whatever_the_random_start_is() -> None:
    random = RandomConfig(image_size=64, stem_stride=1)
    config = BackboneConfig(backbone=NAME, random=random)
    model, metadata = classifier.create(config, 0, 0)
    assert metadata.stem_stride == 4
    images = torch.randn(1, 3, 64, 64)
    assert timm_features(model, images).shape[2:] == (2, 2)
    own = replace(random, name=NAME)
    scratch, metadata = classifier.create(BackboneConfig(random=own), 0, 0)
    assert metadata.stem_stride == 1
    assert timm_features(scratch, images).shape[2:] == (8, 8)
