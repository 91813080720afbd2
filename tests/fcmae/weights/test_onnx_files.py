"""ONNX files of ours are read back: each tensor bit by bit, with the metadata and the classes."""

import json
import sys
from pathlib import Path

import pytest
import torch

from fcmae.architecture import Architecture
from fcmae.encoder import Encoder
from fcmae.weights.conversion import convert
from fcmae.weights.files import Weights, read_weights
from fcmae.weights.loading import load_encoder
from fcmae.weights.metadata import HEADER, Metadata
from fcmae.weights.timm_models import as_timm, save_timm
from fcmae.weights.weight_names import complete
from tests.support.models import metadata_of, trained

NAMES = ["crack", "dent", "none"]


def saved(path: Path, name: str, classes: int = 0, *, fresh: bool = False) -> Weights:
    """Weights for 64 x 64 pixels in a file, with a classifier and a final norm that matter."""
    model = trained(name, 4, 3)
    model.image_size = (64, 64)
    metadata = metadata_of(model, name, 4, 3)
    tensors = Encoder(metadata.architecture).state_dict() if fresh else model.encoder.state_dict()
    generator = torch.Generator().manual_seed(2)
    if classes:
        dim = metadata.architecture.dim
        tensors = complete(tensors)
        tensors["head.norm.weight"] += 0.1 * torch.randn(dim, generator=generator)
        tensors["head.fc.weight"] = torch.randn(classes, dim, generator=generator)
        tensors["head.fc.bias"] = torch.randn(classes, generator=generator)
    save_timm(path, tensors, metadata, {"classes": json.dumps(NAMES)} if classes else None)
    return read_weights(path)


def whole(weights: Weights) -> torch.nn.Module:
    """The timm model of weights that tell their metadata."""
    assert isinstance(weights.metadata, Metadata)
    return as_timm(weights.tensors, weights.metadata).eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "classes", "half"),
    [
        ("convnextv2_atto", 0, False),
        ("convnextv2_atto", 3, False),
        ("convnext_atto", 3, False),
        ("convnextv2_atto", 3, True),
        ("convnextv2_tiny", 0, False),  # linear layers where timm's smaller models have 1x1
    ],
)
def test_an_onnx_of_ours_is_read_back(tmp_path: Path, name: str, classes: int, half: bool) -> None:
    source, out = tmp_path / "w.safetensors", tmp_path / "out.onnx"
    wanted = saved(source, name, classes)
    convert(source, out, to="onnx", half=half)
    found = read_weights(out)
    assert found.metadata == wanted.metadata
    assert found.classes == wanted.classes
    assert found.extra_header == wanted.extra_header
    assert found.tensors.keys() == wanted.tensors.keys()
    for key, tensor in wanted.tensors.items():
        exact = tensor.half().float() if half else tensor
        assert found.tensors[key].dtype == torch.float32
        assert torch.equal(found.tensors[key], exact), key
    assert ("final norm" in " ".join(found.notes)) == (classes == 0)
    assert ("half precision" in " ".join(found.notes)) == half
    if not half:
        images = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(whole(found)(images), whole(wanted)(images))


@pytest.mark.slow
def test_fresh_weights_many_of_which_are_equal_are_read_back(tmp_path: Path) -> None:
    """The exporter's optimiser would merge equal weights, and remove those of zero."""
    source, out = tmp_path / "w.safetensors", tmp_path / "out.onnx"
    wanted = saved(source, "convnextv2_atto", fresh=True)
    convert(source, out, to="onnx")
    told = convert(out, tmp_path / "again.safetensors")
    assert (
        "the ONNX file has no final norm, which its outputs do not pass; final norm, not in the"
        in told
    )
    again = read_weights(tmp_path / "again.safetensors").tensors
    assert all(torch.equal(again[key], tensor) for key, tensor in wanted.tensors.items())
    architecture = Architecture(name="convnextv2_atto", image_size=64)
    encoder = Encoder(architecture)
    assert "has no final norm" in load_encoder(encoder, out, architecture)
    assert all(torch.equal(wanted.tensors[k], v) for k, v in encoder.state_dict().items())


def test_reading_without_the_extra_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\x08\x0a")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"x\.onnx needs .* 'fcmae\[export\]'$"):
        read_weights(tmp_path / "x.onnx")


@pytest.mark.parametrize("kind", ["text", "whole", "short", "elsewhere", "nan"])
def test_a_damaged_tensor_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    types = onnx.TensorProto
    tensor = {
        "text": onnx.helper.make_tensor("model.a", types.STRING, [1], [b"a"]),
        "whole": onnx.helper.make_tensor("model.a", types.INT8, [1], [7]),
        "nan": onnx.helper.make_tensor("model.a", types.FLOAT, [1], [float("nan")]),
    }.get(kind, types(name="model.a", data_type=types.FLOAT, dims=[2**40], raw_data=b"1234"))
    if kind == "elsewhere":
        tensor.data_location = types.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/hostname")
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    model = onnx.helper.make_model(graph)
    model.metadata_props.add(key=HEADER, value="{}")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"m\.onnx .*\ba\b"):
        read_weights(path)
