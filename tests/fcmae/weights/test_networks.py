"""Fine-tuned networks of timm keep their classifier on the way to timm and ONNX."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import fcmae
from fcmae.weights.conversion import convert
from fcmae.weights.files import read_weights
from fcmae.weights.timm_models import load_timm
from finetune.labels.tasks import Task
from finetune.models import classifier
from finetune.models.config import BackboneConfig, RandomConfig

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module", params=["resnet10t", "mobilenetv3_small_050"])
def tuned(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, torch.nn.Module]:
    """Weights in a file with a classifier, and their model."""
    path = tmp_path_factory.mktemp("tuned") / "w.safetensors"
    random = RandomConfig(name=f"timm:{request.param}", image_size=64)
    model, metadata = classifier.create(BackboneConfig(random=random, head_init_scale=1.0), 3, 0)
    classifier.save(path, model, metadata, Task(kind="class", field="", names=NAMES))
    return path, model.eval()


@torch.no_grad()
def test_the_classifier_of_a_network_is_converted(
    tuned: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    path, model = tuned
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fcmae.load(path)[0](images), model(images))
    file = tmp_path / "out.safetensors"
    assert "classifier of 3 classes kept" in convert(path, file)
    assert load_file(file).keys() == model.state_dict().keys()
    assert read_weights(file).classes == NAMES
    convert(path, tmp_path / "hub", to="hub")
    found = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
    assert torch.equal(found(images), model(images))


def test_training_starts_from_it_with_a_fresh_classifier(
    tuned: tuple[Path, torch.nn.Module],
) -> None:
    path, model = tuned
    other, _ = load_timm(path, num_classes=5)
    for name, tensor in load_timm(path)[0].state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
        assert torch.equal(tensor, other.state_dict()[name])
    assert other.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


def test_a_classifier_that_its_header_does_not_fit_is_refused(
    tuned: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    _, model = tuned
    metadata = read_weights(tuned[0]).told_metadata(tuned[0])
    path = tmp_path / "w.safetensors"
    classifier.save(path, model, metadata, Task(kind="class", field="", names=NAMES[:2]))
    with pytest.raises(ValueError, match=r"no timm:.*: 2 of another shape"):
        read_weights(path)
