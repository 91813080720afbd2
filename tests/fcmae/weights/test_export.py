"""Exports are what timm, transformers and ONNX Runtime load, with the values of the encoder."""

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import onnx
import pytest
import timm
import torch
import transformers
import yaml
from onnxruntime import InferenceSession
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data.config import resolve_data_config, resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor

import fcmae.weights
from data.decode import open_image
from data.fitting import Fitted
from data.transforms import Normalise
from fcmae import convnexts
from fcmae.architecture import Architecture
from fcmae.convnexts import Size
from fcmae.encoder import Encoder
from fcmae.weights import onnx as export_onnx
from fcmae.weights.conversion import convert
from fcmae.weights.files import read_weights
from fcmae.weights.metadata import Metadata
from fcmae.weights.options import Target
from fcmae.weights.safetensors_files import read_metadata, read_safetensors
from fcmae.weights.timm_creation import create_timm
from fcmae.weights.timm_models import as_timm, load_timm, save_timm, to_timm
from fcmae.weights.weight_names import hf_names, shapes_of
from finetune.labels.tasks import Task
from finetune.models import classifier
from tests.support.images import photograph
from tests.support.models import metadata_of, saved_run, timm_features, trained

NAMES = ["crack", "dent", "none"]
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.21, 0.22)
SMALL = Size((1, 1, 1, 2), (8, 16, 24, 32))  # the exporter takes a second for each block
TARGETS: list[Target] = ["hub", "hf", "onnx"]


def weights(
    path: Path,
    name: str = "convnextv2_atto",
    *,
    stem_stride: int = 1,
    in_chans: int = 3,
    image_size: tuple[int, int] = (32, 32),
    classes: int = 0,
    class_names: list[str] | None = None,
    own: Size | None = None,
) -> Path:
    """Converted weights, none of them at its initial value, with a classifier of `classes`."""
    model = trained(name, stem_stride, in_chans, own)
    metadata = dataclasses.replace(
        metadata_of(model, name, stem_stride, in_chans),
        image_size=image_size,
        depths=own and own.depths,
        widths=own and own.widths,
    )
    if in_chans == 3:
        metadata = dataclasses.replace(metadata, mean=MEAN, std=STD)
    tensors = to_timm(model.encoder.state_dict(), metadata)
    generator = torch.Generator().manual_seed(2)
    if classes:
        dim = len(tensors["head.norm.bias"])
        tensors["head.fc.weight"] = torch.randn(classes, dim, generator=generator)
        tensors["head.fc.bias"] = torch.randn(classes, generator=generator)
    beside = {} if class_names is None else {"classes": json.dumps(class_names), "task": "{}"}
    save_timm(path, tensors, metadata, beside)
    return path


def whole(path: Path) -> torch.nn.Module:
    """The timm model of converted weights, with its classifier."""
    read = read_weights(path)
    assert read.metadata is not None
    return as_timm(read.tensors, read.metadata).eval()


def hub_model(directory: Path, **options: Any) -> Any:
    return timm.create_model(f"local-dir:{directory}", pretrained=True, **options).eval()


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fine_tuned") / "weights.safetensors"
    return weights(path, classes=3, class_names=NAMES)


@pytest.fixture(scope="module")
def hub(fine_tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "new" / "out"
    told = convert(fine_tuned, out, to="hub")
    assert told.endswith(
        "out: hub convnextv2_atto, step 7; final norm kept; classifier of 3 classes kept"
    )
    return out


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    source = weights(folder / "w.safetensors", own=SMALL)
    told = convert(source, folder / "out.onnx", to="onnx")
    assert re.search(r"; onnxruntime differs from torch by at most \d\.\de-0\d$", told)
    return folder / "out.onnx"


def test_hub_directory_loads_through_timm_local_dir(fine_tuned: Path, hub: Path) -> None:
    model, wanted = hub_model(hub), whole(fine_tuned)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), wanted(images))
    assert model.num_classes == 3
    assert model.pretrained_cfg["label_names"] == NAMES


def test_hub_directory_loads_in_transformers(fine_tuned: Path, hub: Path, tmp_path: Path) -> None:
    images = torch.randn(2, 3, 32, 32)
    classifier = transformers.AutoModelForImageClassification.from_pretrained(hub).eval()
    with torch.no_grad():
        torch.testing.assert_close(classifier(images).logits, whole(fine_tuned)(images))
    assert classifier.config.id2label == dict(enumerate(NAMES))
    assert transformers.AutoImageProcessor.from_pretrained(hub).data_config["crop_pct"] == 1.0
    source = weights(tmp_path / "w.safetensors")
    convert(source, tmp_path / "out", to="hub")
    encoder = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        wanted = timm_features(load_timm(source)[0], images)
        torch.testing.assert_close(encoder(images).last_hidden_state, wanted)


@pytest.mark.parametrize(
    "to",
    [
        "timm",
        "official",
        "official-sparse",
        "hub",
        "hf",
        pytest.param("onnx", marks=pytest.mark.slow),
    ],
)
def test_the_same_conversion_gives_the_same_bytes(
    tmp_path: Path, fine_tuned: Path, to: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the output is called, and wherever one is."""
    source = weights(tmp_path / "w.safetensors") if to == "official-sparse" else fine_tuned
    found = []
    for name in "ab":
        suffix = {"timm": ".safetensors", "onnx": ".onnx", "hub": "", "hf": ""}.get(to, ".pt")
        out = tmp_path / name / f"out_{name}{suffix}"
        out.parent.mkdir()
        monkeypatch.chdir(out.parent)
        convert(source, out, to=to)
        files = [out] if suffix else sorted(out.iterdir())
        found.append({file.name.replace(f"_{name}", ""): file.read_bytes() for file in files})
    assert found[0].keys() == found[1].keys()
    for name, content in found[0].items():
        assert content == found[1][name], name


def test_a_file_alone_keeps_its_preprocessing_with_an_overlay(tmp_path: Path) -> None:
    """fcmae/README.md shows this, since timm's own preprocessing of a model is for 224 px."""
    source = weights(tmp_path / "w.safetensors", stem_stride=4, image_size=(128, 128))
    overlay = {"input_size": (3, 128, 128), "crop_pct": 1.0, "mean": MEAN, "std": STD}
    model = timm.create_model(
        "convnextv2_atto",
        num_classes=0,
        checkpoint_path=str(source),
        pretrained_cfg_overlay=overlay,
    )
    resolved = resolve_model_data_config(model)
    assert resolved == resolve_model_data_config(load_timm(source)[0])
    assert resolved["input_size"] == (3, 128, 128)


def test_hub_directory_of_an_encoder_has_no_classifier(tmp_path: Path) -> None:
    source = weights(tmp_path / "w.safetensors", "convnext_atto", stem_stride=4, in_chans=2)
    convert(source, tmp_path / "out", to="hub")
    model = hub_model(tmp_path / "out")
    images = torch.randn(1, 2, 64, 64)
    with torch.no_grad():
        assert torch.equal(
            timm_features(model, images), timm_features(load_timm(source)[0], images)
        )
    assert model.num_classes == 0
    assert hub_model(tmp_path / "out", num_classes=5).num_classes == 5


def test_timm_resolves_the_preprocessing_of_a_hub_directory(hub: Path) -> None:
    assert resolve_data_config(model=hub_model(hub)) == {
        "input_size": (3, 32, 32),
        "interpolation": "bicubic",
        "mean": list(MEAN),
        "std": list(STD),
        "crop_pct": 1.0,
        "crop_mode": "center",
    }


def test_timm_resolves_one_mean_for_each_channel(tmp_path: Path) -> None:
    model = load_timm(weights(tmp_path / "w.safetensors", in_chans=2))[0]
    resolved = resolve_data_config(model=model)
    assert (resolved["mean"], resolved["std"]) == ((0.5, 0.5), (0.25, 0.25))


def test_features_only_gives_the_four_stages_of_the_encoder(tmp_path: Path) -> None:
    model = trained("convnextv2_atto", 1, 3)
    run = saved_run(tmp_path / "run", model, name="convnextv2_atto", stem_stride=1, in_chans=3)
    convert(run, tmp_path / "out", to="hub")
    pyramid = hub_model(tmp_path / "out", features_only=True)
    encoder = Encoder(Architecture(stem_stride=1), "reference")  # its activations are whole grids
    encoder.load_state_dict(model.encoder.state_dict())
    ours: list[Any] = []
    for stage in encoder.stages:
        stage.register_forward_hook(lambda _, __, x: ours.append(x))
    images = torch.randn(2, 3, *model.image_size)
    with torch.no_grad():
        encoder(images, torch.ones(2, model.n, dtype=torch.bool))
        theirs = pyramid(images)
    assert [tuple(x.shape) for x in theirs] == [
        *((2, 40, 16, 24), (2, 80, 8, 12), (2, 160, 4, 6), (2, 320, 2, 3))
    ]
    for mine, x in zip(ours, theirs, strict=True):
        # float32: both sum the same products in another order
        torch.testing.assert_close(mine.permute(0, 3, 1, 2), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("official", [False, True], ids=["hub", "hub and official"])
def test_hub_weights_convert_back_to_equal_tensors_and_names(
    fine_tuned: Path, hub: Path, tmp_path: Path, official: bool
) -> None:
    source = hub / "model.safetensors"
    if official:
        convert(source, tmp_path / "official.pt", to="official")
        source = tmp_path / "official.pt"
    convert(source, tmp_path / "back.safetensors")
    back, wanted = load_file(tmp_path / "back.safetensors"), load_file(fine_tuned)
    assert back.keys() == wanted.keys()
    assert all(torch.equal(back[key], wanted[key]) for key in wanted)
    assert read_safetensors(tmp_path / "back.safetensors")[1] == read_safetensors(fine_tuned)[1]


def test_fine_tuned_weights_keep_their_task(tmp_path: Path) -> None:
    source = weights(tmp_path / "w.safetensors", classes=1)
    metadata, task = (
        read_metadata(source),
        Task(kind="value", field="age", names=("age",), mean=40.0),
    )
    classifier.save(tmp_path / "tuned.safetensors", whole(source), metadata, task)
    convert(tmp_path / "tuned.safetensors", tmp_path / "out", to="hub")
    assert classifier.load(tmp_path / "out" / "model.safetensors")[1:] == (metadata, task)
    assert '"mean": 40.0' in (tmp_path / "out" / "README.md").read_text()


def test_the_model_card_runs_and_tells_what_a_user_must_know(hub: Path) -> None:
    text = (hub / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    tags = ["timm", "image-classification", "convnextv2", "fcmae"]
    assert yaml.safe_load(front) == {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": tags,
    }
    (code,) = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    scope = {"images": torch.randn(2, 3, 32, 32)}
    exec(code.replace("DIRECTORY", str(hub)), scope)
    assert scope["features"].shape == (2, 320)
    for told in (
        "step 7",
        "32 x 32 px",
        "multiples of 8",
        "0.5, 0.4, 0.3",
        '["crack", "dent", "none"]',
    ):
        assert told in body


def test_the_model_card_of_foreign_weights_claims_no_pretraining(tmp_path: Path) -> None:
    source = weights(tmp_path / "w.safetensors")
    save_file(load_file(source), tmp_path / "plain.safetensors")
    convert(tmp_path / "plain.safetensors", tmp_path / "out", to="hub", image_size=32)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "ConvNeXt V2, of no known pretraining." in text
    assert "image-feature-extraction" in text


def test_stem_stride_2_is_beyond_timm(tmp_path: Path) -> None:
    source = weights(tmp_path / "w.safetensors", stem_stride=2)
    with pytest.raises(ValueError, match=r"stem_stride=2 is not among .*timm_models\.load_timm"):
        convert(source, tmp_path / "out", to="hub")
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("name", "stem_stride", "in_chans"),
    [
        ("convnextv2_atto", 4, 3),
        ("convnextv2_atto", 2, 3),
        ("convnextv2_atto", 1, 2),
        ("convnext_atto", 2, 3),
    ],
)
def test_transformers_computes_the_features_of_timm(
    tmp_path: Path, name: str, stem_stride: int, in_chans: int
) -> None:
    source = weights(tmp_path / "w.safetensors", name, stem_stride=stem_stride, in_chans=in_chans)
    convert(source, tmp_path / "out", to="hf")
    kind: Any = transformers.ConvNextV2Model if "v2" in name else transformers.ConvNextModel
    model, told = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told.values()), told
    wanted: Any = load_timm(source)[0].eval()
    images = torch.randn(2, in_chans, 16 * stem_stride, 24 * stem_stride)
    with torch.no_grad():
        found = model.eval()(images)
        features = wanted.forward_features(images)
        pooled = wanted.forward_head(features, pre_logits=True)
    assert features.shape == (2, 320, 2, 3)
    # float32: both sum the same products in another order
    torch.testing.assert_close(found.last_hidden_state, features, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.pooler_output, pooled, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("class_names", [NAMES, None])
def test_transformers_classifies_as_timm(tmp_path: Path, class_names: list[str] | None) -> None:
    source = weights(tmp_path / "w.safetensors", classes=3, class_names=class_names)
    convert(source, tmp_path / "out", to="hf")
    kind: Any = transformers.ConvNextV2ForImageClassification
    model, told = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told.values()), told
    assert model.config.id2label == dict(enumerate(class_names or ["0", "1", "2"]))
    assert Metadata.of_json(model.config.fcmae["fcmae"]).mean == MEAN
    assert ("task" in model.config.fcmae) == (class_names is not None)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found, wanted = model.eval()(images).logits, whole(source)(images)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_every_size_of_both_families_has_transformers_names() -> None:
    for name in convnexts.NAMES:
        architecture = Architecture(name=name)
        shapes = shapes_of(architecture)
        with torch.device("meta"):
            ours = {key: torch.empty(shape) for key, shape in shapes.items()}
            config = transformers.AutoConfig.for_model(
                architecture.family,
                hidden_sizes=[len(ours[f"stages.{i}.blocks.0.norm.bias"]) for i in range(4)],
                depths=[
                    sum(f"stages.{i}." in k and "dw.bias" in k for k in ours) for i in range(4)
                ],
            )
            theirs = transformers.AutoModel.from_config(config).state_dict()
        named = hf_names(ours, architecture)
        found = {key: value.shape for key, value in named.items()}
        norm = {"layernorm.weight", "layernorm.bias"}
        assert found == {k: v.shape for k, v in theirs.items() if k not in norm}


def by_timm(source: Path, out: Path) -> Callable[[Image.Image], Tensor]:
    convert(source, out, to="hub")
    config = resolve_model_data_config(hub_model(out))
    return cast("Any", create_transform(**config))


def by_transformers(source: Path, out: Path) -> Callable[[Image.Image], Tensor]:
    convert(source, out, to="hf")
    processor: Any = transformers.AutoImageProcessor.from_pretrained(out)
    return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]


@pytest.mark.parametrize("theirs", [by_timm, by_transformers])
@pytest.mark.parametrize("size", [(32, 32), (32, 64), (384, 384)])
def test_preprocessing_is_that_of_the_data(
    tmp_path: Path,
    theirs: Callable[[Path, Path], Callable[[Image.Image], Tensor]],
    size: tuple[int, int],
) -> None:
    source = weights(tmp_path / "w.safetensors", image_size=size)
    process = theirs(source, tmp_path / "out")
    for height, width in ((401, 333), (130, 397), (375, 502), (700, 99), size):
        image = Image.fromarray(photograph(height, width))
        for suffix in ("png", "jpg"):
            image.save(tmp_path / f"image.{suffix}")
            with Image.open(tmp_path / f"image.{suffix}") as opened:
                found = process(opened)
            picture = open_image((tmp_path / f"image.{suffix}").read_bytes(), suffix)
            wanted = Normalise(MEAN, STD, 3)(Fitted()(picture, size)[None])[0]
            if suffix == "png":
                torch.testing.assert_close(found, wanted)
            else:  # JPEG's decoders differ by a level in a few values
                assert (found - wanted).abs().mean() < 1e-3
                assert (found - wanted).abs().max() < 0.03


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 8, 8), (2, 64, 24), (3, 32, 40)])
def test_onnx_computes_the_features_for_any_number_and_size_of_images(
    onnx_file: Path, batch: int, height: int, width: int
) -> None:
    images = torch.randn(batch, 3, height, width)
    (found,) = InferenceSession(onnx_file).run(["features"], {"images": images.numpy()})
    with torch.no_grad():
        wanted = timm_features(load_timm(onnx_file.with_name("w.safetensors"))[0], images)
    torch.testing.assert_close(
        torch.from_numpy(cast("Any", found)), wanted.mean((2, 3)), rtol=1e-4, atol=1e-4
    )


def test_onnx_tells_of_its_input_and_not_of_the_machine(onnx_file: Path) -> None:
    told = InferenceSession(onnx_file).get_modelmeta().custom_metadata_map
    assert Metadata.of_json(told["fcmae"]).step == 7
    assert "[batch, 3, height, width], RGB" in told["input"]
    assert told["input"].endswith("height and width are multiples of 8")
    assert told["normalisation"].startswith("(x - mean) / std, x on the scale 0 to 1")
    assert (json.loads(told["mean"]), json.loads(told["std"])) == (list(MEAN), list(STD))
    onnx.checker.check_model(onnx_file, full_check=True)
    assert b"site-packages" not in onnx_file.read_bytes()


@pytest.mark.slow
def test_onnx_in_half_precision_keeps_the_sums_of_grn(tmp_path: Path) -> None:
    """Activations of some hundreds, whose squares add up to far more than float16 can hold."""
    source = weights(tmp_path / "w.safetensors", stem_stride=4, image_size=(224, 224))
    tensors, header = load_file(source), read_safetensors(source)[1]
    tensors["stages.0.blocks.0.mlp.fc1.weight"] *= 200
    save_file(tensors, source, metadata=header)
    largest: list[float] = []
    model = load_timm(source)[0].eval()
    grn = model.get_submodule("stages.0.blocks.0.mlp.grn")
    grn.register_forward_hook(lambda _, x, __: largest.append(float(x[0].norm(dim=(1, 2)).max())))
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        wanted = timm_features(model, images).mean((2, 3))
    assert largest[0] ** 2 > 100 * 65504
    told = convert(source, tmp_path / "out.onnx", to="onnx", half=True)
    assert re.search(r"onnxruntime differs from torch by at most \d\.\de[-+]0\d$", told)
    (found,) = InferenceSession(tmp_path / "out.onnx").run(None, {"images": images.numpy()})
    error = (torch.from_numpy(cast("Any", found)) - wanted).norm() / wanted.norm()
    assert error < 1e-2
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "out.onnx")).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    sums = [node for node in graph.node if node.op_type.startswith("Reduce")]
    assert len(sums) > 12
    assert {kinds[node.input[0]] for node in sums} == {onnx.TensorProto.FLOAT}
    convolutions = [x for x in graph.initializer if len(x.dims) == 4 and x.dims[0] > 1]
    assert {x.data_type for x in convolutions} == {onnx.TensorProto.FLOAT16}
    size = (tmp_path / "out.onnx").stat().st_size
    assert size < 0.55 * source.stat().st_size
    with pytest.raises(ValueError, match="half=True is for --to onnx, not for --to hub"):
        convert(source, tmp_path / "out", to="hub", half=True)


def test_onnx_that_differs_from_torch_is_refused(onnx_file: Path, tmp_path: Path) -> None:
    other = weights(tmp_path / "w.safetensors", own=SMALL)
    model, metadata = load_timm(other)
    outputs = export_onnx.Exported(model, logits=False).eval()
    assert export_onnx.difference(onnx_file, outputs, metadata) < 1e-4
    with torch.no_grad():
        model.get_parameter("stages.3.blocks.1.mlp.fc2.bias")[0] += 1.0
    with pytest.raises(
        ValueError, match=r"differs from torch by 1\.0e\+00 in outputs of .* 0.0001 "
    ):
        export_onnx.difference(onnx_file, outputs, metadata)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stem_stride", "classes", "output"),
    [
        ("convnextv2_atto", 4, 3, "logits"),
        ("convnext_atto", 2, 0, "features"),
        ("convnextv2_tiny", 4, 0, "features"),  # linear layers where timm's smaller models have 1x1
    ],
)
def test_onnx_of_other_models(
    tmp_path: Path, name: str, stem_stride: int, classes: int, output: str
) -> None:
    source = weights(
        tmp_path / "w.safetensors",
        name,
        stem_stride=stem_stride,
        classes=classes,
        image_size=(64, 96),
    )
    convert(source, tmp_path / "out.onnx", to="onnx")
    images = torch.randn(2, 3, 96, 64)
    session = InferenceSession(tmp_path / "out.onnx")
    (found,) = session.run([output], {"images": images.numpy()})
    outputs = export_onnx.Exported(whole(source), logits=classes > 0)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(cast("Any", found)), outputs(images), rtol=1e-4, atol=1e-4
        )


def test_weights_beyond_one_onnx_file_are_refused(tmp_path: Path) -> None:
    metadata = Metadata(
        model="convnextv2_huge", image_size=(64, 64), in_chans=3, mean=MEAN, std=STD,
        stem_stride=4, step=None,
    )  # fmt: skip
    with torch.device("meta"):
        model = create_timm(metadata)
    with pytest.raises(
        ValueError, match=r"convnextv2_huge has 2\.6 GB of weights, and an ONNX file"
    ):
        export_onnx.write_onnx(tmp_path / "out.onnx", model, metadata, [], {})


def test_an_onnx_file_has_its_suffix(fine_tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"out must end in \.onnx for --to onnx"):
        convert(fine_tuned, tmp_path / "out", to="onnx")


@pytest.mark.parametrize("to", TARGETS)
def test_nothing_is_written_over(fine_tuned: Path, tmp_path: Path, to: Target) -> None:
    out = tmp_path / "out.onnx"
    out.mkdir()
    (out / "mine").write_text("kept")
    with pytest.raises(FileExistsError, match=r"out\.onnx exists and is not written over: remove"):
        convert(fine_tuned, out, to=to)
    assert (out / "mine").read_text() == "kept"
    assert list(tmp_path.iterdir()) == [out]


def test_an_empty_directory_is_filled(fine_tuned: Path, tmp_path: Path) -> None:
    convert(fine_tuned, tmp_path, to="hub")
    assert {path.name for path in tmp_path.iterdir()} == {
        *("README.md", "config.json", "model.safetensors")
    }


@pytest.mark.parametrize(
    ("to", "module", "package"),
    [("hf", "hf", "transformers"), ("onnx", "onnx", "onnxruntime"), ("onnx", "onnx", "onnxscript")],
)
def test_a_missing_extra_is_named(
    fine_tuned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    to: Target,
    module: str,
    package: str,
) -> None:
    monkeypatch.delitem(sys.modules, f"fcmae.weights.{module}", raising=False)
    monkeypatch.delattr(fcmae.weights, module, raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=rf"--to {to} needs .* 'fcmae\[export\]'$"):
        convert(fine_tuned, tmp_path / "out.onnx", to=to)


def test_class_names_fit_the_classifier(tmp_path: Path) -> None:
    source = weights(tmp_path / "w.safetensors", classes=3, class_names=NAMES[:2])
    with pytest.raises(
        ValueError,
        match=r"w\.safetensors: 2 names for a classifier of 3 classes: correct 'classes' in",
    ):
        convert(source, tmp_path / "out", to="hub")


def test_class_names_that_are_no_json_list_are_refused(tmp_path: Path) -> None:
    source = weights(tmp_path / "w.safetensors", classes=3)
    header = read_safetensors(source)[1] | {"classes": "3"}
    save_file(load_file(source), tmp_path / "bad.safetensors", metadata=header)
    with pytest.raises(ValueError, match="the metadata under 'classes' are damaged: "):
        read_weights(tmp_path / "bad.safetensors")
