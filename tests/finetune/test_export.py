"""Segmenters as ONNX: the logits of onnxruntime are those of torch, in full and half precision."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import onnx
import pytest
import torch
from onnxruntime import InferenceSession

from fcmae.weights.conversion import convert
from fcmae.weights.files import read_weights
from finetune.export import main
from finetune.labels.tasks import Task
from finetune.models import classifier, segmenter
from finetune.models.config import BackboneConfig
from tests.support.models import TINY

NAMES = ["sky", "soil", "sea"]


def saved(path: Path, activations: float = 1.0) -> segmenter.Segmenter:
    """A segmenter in a file, whose group norms get inputs that are so many times larger."""
    config = BackboneConfig(random=TINY, head_init_scale=1.0)
    model, metadata = segmenter.create(config, len(NAMES), 32, 0)
    with torch.no_grad():
        for layer in model.head.branches.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight *= activations
    segmenter.save(path, model, metadata, NAMES)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
def test_an_exported_segmenter_answers_as_torch_does(tmp_path: Path, capsys, half: bool) -> None:
    weights, out = tmp_path / "w.safetensors", tmp_path / "out.onnx"
    model = saved(weights, activations=3000.0 if half else 1.0)  # squares are beyond float16
    main([str(weights), str(out), *(["--half"] if half else [])])
    told = capsys.readouterr().out
    assert "segmenter of 3 classes on convnextv2_atto; onnxruntime differs from torch by" in told
    images = torch.randn(2, 3, 24, 40)
    session = InferenceSession(out)
    (found,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        wanted = model(images)
    assert wanted.shape == (2, 3, 24, 40)
    error = (torch.from_numpy(cast("Any", found)) - wanted).norm() / wanted.norm()
    assert error < (1e-2 if half else 1e-5)
    about = {x.key: x.value for x in onnx.load(out, load_external_data=False).metadata_props}
    assert json.loads(about["segmenter"])["names"] == NAMES
    with pytest.raises(ValueError, match=r"out\.onnx is a segmenter, .* --key backbone"):
        read_weights(out)
    tensors = read_weights(out, "backbone").tensors
    for name, tensor in model.backbone.state_dict().items():
        rounded = tensor.half().float() if half else tensor
        assert torch.equal(tensors[name], rounded.view_as(tensors[name])), name


@pytest.mark.slow
def test_a_segmenter_on_a_model_of_timm_is_exported(tmp_path: Path, capsys) -> None:
    """Its batch norms count batches, which no output depends on: they are not in the file."""
    weights, out = tmp_path / "w.safetensors", tmp_path / "out.onnx"
    config = BackboneConfig(backbone="timm:resnet10t", random=replace(TINY, image_size=64))
    model, metadata = segmenter.create(config, len(NAMES), 32, 0)
    segmenter.save(weights, model, metadata, NAMES)
    main([str(weights), str(out)])
    assert "segmenter of 3 classes on timm:resnet10t; onnxruntime" in capsys.readouterr().out
    told = r"out\.onnx: no timm:resnet10t: 70 missing \(bn1\..* take the file it was made of"
    with pytest.raises(ValueError, match=told):
        read_weights(out, "backbone")


def test_the_converter_names_the_program_and_takes_the_encoder_alone(tmp_path: Path) -> None:
    source, out = tmp_path / "w.safetensors", tmp_path / "out.safetensors"
    model = saved(source)
    for to, name in (("onnx", "out.onnx"), ("hub", "out"), ("timm", "out.safetensors")):
        with pytest.raises(ValueError, match=r"w\.safetensors is a segmenter, .* finetune\.export"):
            convert(source, tmp_path / name, to=cast("Any", to))
    convert(source, out, key="backbone")
    tensors = read_weights(out).tensors
    name = "stages.3.blocks.1.mlp.fc2.bias"
    assert torch.equal(tensors[name], model.backbone.get_parameter(name))


def test_what_is_no_segmenter_or_no_onnx_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"out=x\.pt must end in \.onnx"):
        main(["w.safetensors", "x.pt"])
    weights = tmp_path / "w.safetensors"
    model, metadata = classifier.create(BackboneConfig(random=TINY), 2, 0)
    classifier.save(weights, model, metadata, Task(kind="class", field="", names=("a", "b")))
    with pytest.raises(ValueError, match="has no segmentation head"):
        main([str(weights), str(tmp_path / "out.onnx")])
