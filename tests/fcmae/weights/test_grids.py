"""Grids of cells: their equation, and classifiers on them wherever weights are read."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from einops import rearrange
from onnxruntime import InferenceSession
from torch import nn
from torch.nn import functional as F

import fcmae
from fcmae.weights.conversion import convert
from fcmae.weights.files import read_weights
from fcmae.weights.grids import cells, classify_cells, map_of
from fcmae.weights.metadata import HEADER, HeadPool, Metadata, header_for
from fcmae.weights.pooling import pooled
from fcmae.weights.timm_models import load_timm
from fcmae.weights.timm_protocols import TimmModel
from finetune.labels.tasks import Task
from finetune.models import classifier
from finetune.models.config import BackboneConfig, RandomConfig
from tests.support.generators import generator
from tests.support.models import TINY

TASK = Task(kind="class", field="", names=("a", "b", "c"))
VIT: dict[str, Any] = {"img_size": 56, "patch_size": 14, "depth": 1, "embed_dim": 48}
SWIN = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), "img_size": 64}
TINY_AT_32 = replace(TINY, image_size=32)
ENCODERS = {
    "convnextv2": TINY_AT_32,
    "vit": replace(TINY, name="mae_vit_tiny", image_size=(8, 12)),
    "convmae": replace(TINY, name="convmae_small", image_size=(32, 48), stem_stride=1),
    "resnet": replace(TINY, name="timm:resnet10t", image_size=(16, 24)),
}


@pytest.mark.parametrize("sides", [(4, 6), (7, 5), (2, 3), (9, 3)])
@pytest.mark.parametrize("side", [1, 2])
def test_cells_are_those_of_adaptive_average_pooling(sides: tuple[int, int], side: int) -> None:
    maps = torch.randn(2, 3, *sides, dtype=torch.float64, generator=generator())
    maps.requires_grad_()
    ours, theirs = cells(maps, side), F.adaptive_avg_pool2d(maps, side)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(ours.shape, dtype=torch.float64, generator=generator(1))
    gradients = [torch.autograd.grad((x * weights).sum(), maps)[0] for x in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_three_cells_a_side_overlap_where_they_do_not_divide_the_map() -> None:
    maps = torch.randn(2, 3, 7, 4, dtype=torch.float64, generator=generator())
    torch.testing.assert_close(cells(maps, 3), F.adaptive_avg_pool2d(maps, 3))


def test_a_map_that_is_smaller_than_the_grid_is_refused() -> None:
    message = (
        r"pool=grid2 takes maps of at least 2 x 2 sites, and these have 1 x 3: take --pool last, or"
        " larger images, or weights with a smaller stem stride"
    )
    with pytest.raises(ValueError, match=message):
        cells(torch.zeros(1, 4, 1, 3), 2)


def test_tokens_are_laid_out_as_the_patches_lie_without_those_of_the_class() -> None:
    model: Any = timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT)
    numbers = torch.arange(17.0).view(1, 17, 1).expand(1, 17, 48)
    assert torch.equal(map_of(model, numbers)[0, 0], torch.arange(1.0, 17).view(4, 4))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "options", "side"),
    [
        ("convnextv2_atto", {"patch_size": 1}, 32),
        ("vit_tiny_patch16_224", VIT | {"global_pool": "avg", "fc_norm": False}, 56),
        ("swin_tiny_patch4_window7_224", SWIN, 64),  # channels are last
    ],
)
def test_cells_of_an_even_map_average_to_the_feature_of_its_mean(
    name: str, options: dict, side: int
) -> None:
    model = timm.create_model(name, num_classes=0, **options).eval()
    assert isinstance(model, TimmModel)
    last = model.forward_features(torch.randn(2, 3, side, side, generator=generator()))
    found = pooled(model, last, "grid2")
    assert found.shape == (2, 4 * model.num_features)
    torch.testing.assert_close(found.view(2, -1, 4).mean(2), pooled(model, last))
    cells_of_map = F.adaptive_avg_pool2d(map_of(model, last), 2)
    torch.testing.assert_close(found.view(2, -1, 2, 2), cells_of_map)


def tuned(folder: Path, random: RandomConfig, pool: HeadPool) -> tuple[Path, nn.Module, Metadata]:
    """A fine-tuned model that was written, with a classifier that matters."""
    config = BackboneConfig(random=random, head_init_scale=1.0)
    model, metadata = classifier.create(config, len(TASK.names), 0, pool=pool)
    file = folder / "weights.safetensors"
    classifier.save(file, model, metadata, TASK)
    return file, model.eval(), metadata


def images_for(metadata: Metadata, more: int = 0) -> torch.Tensor:
    sides = (side + more for side in metadata.image_size)
    return torch.randn(2, metadata.in_chans, *sides, generator=generator())


@torch.no_grad()
@pytest.mark.parametrize(
    "encoder",
    [
        "convnextv2",
        "vit",
        *(pytest.param(e, marks=pytest.mark.slow) for e in ("resnet", "convmae")),
    ],
)
def test_a_classifier_on_a_grid_is_the_same_wherever_it_is_read(
    tmp_path: Path, encoder: str
) -> None:
    file, model, metadata = tuned(tmp_path, ENCODERS[encoder], "grid2")
    images = images_for(metadata)
    wanted = model(images)
    assert not torch.allclose(wanted[0], wanted[1])
    read, told, task = classifier.load(file)
    assert (told.pool, task) == ("grid2", TASK)
    assert torch.equal(read.eval()(images), wanted)
    loaded, _ = fcmae.load(file)
    assert torch.equal(loaded(images), wanted)
    assert read_weights(file).classes == TASK.names


@torch.no_grad()
@pytest.mark.parametrize(
    ("encoder", "order"),
    [
        ("convnextv2", "b (d i j)"),
        pytest.param("convmae", "b (i j d)", marks=pytest.mark.slow),
    ],
)
def test_the_norm_of_a_head_is_taken_of_each_cell(tmp_path: Path, encoder: str, order: str) -> None:
    _, model, metadata = tuned(tmp_path, ENCODERS[encoder], "grid2")
    head: Any = model.get_submodule("head")
    nn.init.normal_(head.norm.weight)
    images = images_for(metadata)
    maps = cells(cast("Any", model).forward_features(images), 2)
    rows = rearrange(maps, "b d i j -> b (i j) d")
    normed = F.layer_norm(rows, rows.shape[2:], head.norm.weight, head.norm.bias, head.norm.eps)
    expected = head.fc(rearrange(normed, f"b (i j) d -> {order}", i=2))
    torch.testing.assert_close(model(images), expected)


@torch.no_grad()
def test_the_norm_behind_the_mean_of_timms_vits_is_taken_of_each_cell() -> None:
    options: dict[str, Any] = VIT | {"global_pool": "avg"}
    model: Any = timm.create_model("vit_tiny_patch16_224", num_classes=3, **options).eval()
    nn.init.normal_(model.fc_norm.weight)
    classify_cells(model, "grid2", (56, 56), 3)
    images = torch.randn(2, 3, 56, 56, generator=generator())
    rows = cells(map_of(model, model.forward_features(images)), 2).flatten(2).mT
    torch.testing.assert_close(model(images), model.head(model.fc_norm(rows).flatten(1)))


@pytest.mark.parametrize(
    "name", ["resnet10t", "mobilenetv3_small_100", "regnetx_002", "tiny_vit_5m_224"]
)
def test_timms_networks_keep_their_names_and_take_four_times_as_many_values(name: str) -> None:
    before = timm.create_model(name, num_classes=3)
    values = cast("Any", before).get_classifier().in_features
    names = before.state_dict().keys()
    classify_cells(before, "grid2", (224, 224), 3)
    assert before.state_dict().keys() == names
    assert cast("Any", before).get_classifier().in_features == 4 * values
    assert before.training


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("levit_128s", 224, "the classifier of LevitDistilled is no linear layer on the mean of"),
        ("mixer_s32_224", 224, r"takes a map of 512 channels, and MlpMixer gives \[49, 512\]"),
        ("resnet10t", 32, "pool=grid2 takes maps of at least 2 x 2 sites, and these have 1 x 1"),
    ],
)
def test_models_without_a_map_to_pool_are_refused(name: str, size: int, message: str) -> None:
    model = timm.create_model(name, num_classes=3)
    with pytest.raises(ValueError, match=rf"{message}.*take --pool last"):
        classify_cells(model, "grid2", (size, size), 3)


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["convnextv2", "vit"])
def test_the_encoder_of_such_weights_is_read_without_the_classifier(
    tmp_path: Path, encoder: str
) -> None:
    file, model, _ = tuned(tmp_path, ENCODERS[encoder], "grid2")
    alone, told = load_timm(file)
    assert told.pool == "last"
    images = images_for(told)
    alone.eval()
    assert isinstance(alone, TimmModel)
    assert isinstance(model, TimmModel)
    last = alone.forward_features(images)
    assert torch.equal(last, model.forward_features(images))
    assert pooled(alone, last).shape == (2, alone.num_features)
    rows = fcmae.features(file, [*images.clamp(0, 1)], pool="grid2")
    assert rows.shape == (2, 4 * alone.num_features)


def test_only_a_classifier_on_a_grid_is_told_of_in_the_header(tmp_path: Path) -> None:
    _, _, metadata = tuned(tmp_path, TINY_AT_32, "grid2")
    assert json.loads(header_for(metadata, {})[HEADER])["pool"] == "grid2"
    last = header_for(metadata.without_classifier, {})
    assert "pool" not in json.loads(last[HEADER])
    assert Metadata.of_json(last[HEADER]) == metadata.without_classifier


def test_what_the_header_tells_has_to_be_what_the_classifier_takes(tmp_path: Path) -> None:
    file, model, metadata = tuned(tmp_path, TINY_AT_32, "grid2")
    classifier.save(file, model, replace(metadata, pool="last"), TASK)
    with pytest.raises(
        ValueError, match=r"holds another model: 1 tensors differ.*head\.fc\.weight"
    ):
        classifier.load(file)


@pytest.mark.parametrize("target", ["timm", "official", "hub", "hf"])
def test_targets_that_have_no_such_classifier_refuse_it(tmp_path: Path, target: Any) -> None:
    file, _, _ = tuned(tmp_path, TINY_AT_32, "grid2")
    suffix = {"timm": ".safetensors", "official": ".pt"}.get(target, "")
    message = f"--to {target} has no classifier on the grid2 of a map: take --to onnx"
    with pytest.raises(ValueError, match=message):
        convert(file, tmp_path / f"out{suffix}", to=target)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("encoder", ["convnextv2", "vit"])
def test_onnx_has_a_classifier_on_a_grid(tmp_path: Path, encoder: str) -> None:
    file, model, metadata = tuned(tmp_path, ENCODERS[encoder], "grid2")
    out = tmp_path / "out.onnx"
    convert(file, out, to="onnx")
    session = InferenceSession(out, providers=["CPUExecutionProvider"])
    for more in (0, 8) if encoder == "convnextv2" else (0,):  # patches of 8 px: an odd map, too
        images = images_for(metadata, more)
        (found,) = session.run(None, {"images": images.numpy()})
        torch.testing.assert_close(torch.tensor(found), model(images), rtol=1e-5, atol=1e-5)
    assert read_weights(out).told_metadata(out).pool == "grid2"
