"""Weights as other programs save them: saved by the program itself, and computing the same."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from fcmae import FCMAE
from fcmae.convert import main
from fcmae.weights.conversion import convert
from fcmae.weights.files import read_weights
from fcmae.weights.inference import infer
from fcmae.weights.loading import load_encoder
from fcmae.weights.recognition import canonical
from fcmae.weights.timm_models import as_timm, load_timm
from finetune.models.backbone import backbone
from finetune.models.config import RandomConfig
from tests.support.models import saved_run, timm_features, trained

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"hidden_sizes": [40, 80, 160, 320], "depths": [2, 2, 6, 2]}


def noisy(model: Any) -> Any:
    """The model, none of whose tensors is at its initial value."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return model.eval()


def atto(family: str = "convnextv2", classes: int = 0, **options: Any) -> Any:
    torch.manual_seed(0)
    return noisy(timm.create_model(f"{family}_atto", num_classes=classes, **options))


def assert_same_features(source: str | Path, wanted: Callable[[Tensor], Tensor]) -> None:
    """Compare the encoder at `source` with the last maps `[b, d, h, w]` that `wanted` computes."""
    weights = read_weights(source)
    model = FCMAE(name=weights.architecture.name, image_size=64)
    load_encoder(model.encoder, source, weights.architecture)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model.encoder(images, torch.ones(2, model.n, dtype=torch.bool))
        maps = wanted(images)
    assert maps.std() > 0.1
    # float32: both sum the same products in another order
    torch.testing.assert_close(found.mT.unflatten(2, model.grid), maps, rtol=1e-4, atol=1e-4)


class Detector(nn.Module):
    """What the encoder is a part of in other people's programs."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.backbone = net


class Clip(nn.Module):
    """The parts of OpenCLIP's model that tell how its tensors are named."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.visual = nn.Module()
        self.visual.trunk = trunk
        self.visual.head = nn.Sequential()
        self.visual.head.add_module("proj", nn.Linear(320, 8, bias=False))
        self.transformer = nn.Linear(8, 8)
        self.token_embedding = nn.Embedding(10, 8)
        self.logit_scale = nn.Parameter(torch.ones(()))


def compiled(model: nn.Module) -> nn.Module:
    """The compiled model, whose mark stands before the names."""
    return cast("nn.Module", torch.compile(model))


def compiled_stages(model: Any) -> nn.Module:
    """Each stage compiled alone, whose mark stands inside the names."""
    for i, stage in enumerate(model.stages):
        model.stages[i] = torch.compile(stage)
    return model


@pytest.mark.parametrize(
    ("wrap", "suffix"),
    [
        (lambda net: nn.DataParallel(net), "ckpt"),
        (lambda net: compiled(net), "bin"),
        (lambda net: nn.DataParallel(compiled(Detector(net))), "pth.tar"),
        (lambda net: Detector(Detector(net)), "safetensors"),
        (lambda net: Clip(net), "ckpt"),
        (lambda net: torch.optim.swa_utils.AveragedModel(net), "pt"),
        (compiled_stages, "ckpt"),
        (lambda net: nn.ModuleDict({"any_name": net}), "pth"),
    ],
)
def test_wrapped_encoders_are_the_encoder(
    tmp_path: Path, wrap: Callable[[nn.Module], nn.Module], suffix: str
) -> None:
    model = atto()
    state = wrap(model).state_dict()
    assert any(key not in atto().state_dict() for key in state)
    file = tmp_path / f"x.{suffix}"
    if suffix == "safetensors":
        save_file(state, file)
    else:
        torch.save({"epoch": 3, "state_dict": state} if suffix == "ckpt" else state, file)
    assert_same_features(file, atto().forward_features)


def test_suffixes_do_not_matter(tmp_path: Path) -> None:
    model = atto()
    save_file(model.state_dict(), tmp_path / "x.pt")
    torch.save(model.state_dict(), tmp_path / "without")
    for name in ("x.pt", "without"):
        assert_same_features(tmp_path / name, model.forward_features)


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema", "ema", "teacher"])
def test_an_average_is_preferred_and_said(tmp_path: Path, average: str) -> None:
    last, averaged = atto(), noisy(atto())
    file = tmp_path / "x.pth"
    torch.save({"model": last.state_dict(), average: averaged.state_dict(), "epoch": 1}, file)
    assert_same_features(file, averaged.forward_features)
    told = convert(file, tmp_path / "out.safetensors")
    assert f"; {average} of 2 encoders in it (model, {average});" in told
    told = convert(file, tmp_path / "out.safetensors", key="model")
    assert "; model of 2 encoders in it" in told
    assert_same_features(tmp_path / "out.safetensors", last.forward_features)


def test_encoders_side_by_side_are_told_apart_by_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = atto(), noisy(atto())
    both = nn.ModuleDict({"one": Detector(first), "two": Detector(second), "loss": nn.Linear(2, 2)})
    file, out = tmp_path / "x.ckpt", tmp_path / "out.safetensors"
    torch.save({"state_dict": both.state_dict()}, file)
    with pytest.raises(
        ValueError, match=r"2 encoders are in it: state_dict\.one\.backbone, .*--key"
    ):
        read_weights(file)
    with pytest.raises(
        ValueError, match=r"key=three is part of none of the encoders in it: state_"
    ):
        read_weights(file, "three")
    main([str(file), str(out), "--key", "two"])
    assert "tensors beside state_dict.two.backbone left out" in capsys.readouterr().out
    assert_same_features(out, second.forward_features)


def test_an_unknown_tensor_is_named_with_the_way_out(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    torch.save(nn.ModuleDict({"net": atto(), "fpn": nn.Linear(2, 2)}).state_dict(), file)
    with pytest.raises(ValueError, match=r"2 unused \(fpn\.bias, fpn\.weight\).*--key net leaves"):
        read_weights(file)
    told = convert(file, tmp_path / "out.safetensors", key="net")
    assert "2 tensors beside net left out" in told
    assert_same_features(tmp_path / "out.safetensors", atto().forward_features)


@pytest.mark.parametrize("family", ["convnextv2", "convnext"])
@pytest.mark.parametrize("classified", [False, True])
def test_a_directory_of_transformers_is_read(tmp_path: Path, family: str, classified: bool) -> None:
    kind: Any = (
        transformers.AutoModelForImageClassification if classified else transformers.AutoModel
    )
    names = {0: "cat", 1: "dog", 2: "owl"}
    options = {"id2label": names} if classified else {}
    model = noisy(kind.from_config(transformers.AutoConfig.for_model(family, **SMALL, **options)))
    model.save_pretrained(tmp_path, max_shard_size="2MB" if classified else "1GB")
    transformers.ConvNextImageProcessor(
        size={"shortest_edge": 96}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
    ).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").exists() == classified
    base = getattr(model, family) if classified else model
    assert_same_features(tmp_path, lambda x: base(x).last_hidden_state)
    weights = read_weights(tmp_path)
    assert weights.metadata is not None
    assert weights.metadata.image_size == (96, 96)
    assert weights.metadata.mean == (0.1, 0.2, 0.3)
    assert weights.classes == (("cat", "dog", "owl") if classified else ())
    if classified:
        images = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            found = as_timm(weights.tensors, weights.metadata).eval()(images)
            torch.testing.assert_close(found, model(images).logits, rtol=1e-4, atol=1e-4)
        torch.save(model.state_dict(), tmp_path / "alone.bin")
        assert_same_features(tmp_path / "alone.bin", lambda x: base(x).last_hidden_state)


def test_dinov3_of_transformers_and_of_its_authors_are_read(tmp_path: Path) -> None:
    config = transformers.DINOv3ConvNextConfig(**SMALL)
    model = noisy(transformers.DINOv3ConvNextModel(config))
    model.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "x.pt")

    def maps(images: Tensor) -> Tensor:
        return model(images, output_hidden_states=True).hidden_states[-1]

    assert_same_features(tmp_path, maps)
    assert_same_features(tmp_path / "x.pt", maps)
    weights = read_weights(tmp_path)
    convert(tmp_path, tmp_path / "authors.pth", to="official")
    state = torch.load(tmp_path / "authors.pth", weights_only=True)["model"]
    again = {f"norms.3.{leaf}": state[f"norm.{leaf}"] for leaf in ("weight", "bias")}
    torch.save(state | again, tmp_path / "authors.pth")  # one module under two names
    found = read_weights(tmp_path / "authors.pth").tensors
    assert found.keys() == weights.tensors.keys()
    assert all(torch.equal(found[key], weights.tensors[key]) for key in found)
    torch.save(state | {"norms.3.bias": torch.zeros(320)}, tmp_path / "authors.pth")
    with pytest.raises(ValueError, match=r"1 unused \(norms\.3\.bias\)"):
        read_weights(tmp_path / "authors.pth")


def test_spark_s_encoder_is_read_without_its_decoder(tmp_path: Path) -> None:
    model = atto("convnext")
    torch.save(model.state_dict(), tmp_path / "timm.pt")
    convert(tmp_path / "timm.pt", tmp_path / "official.pt", to="official")
    state = torch.load(tmp_path / "official.pt", weights_only=True)["model"]
    plain = {k: v for k, v in state.items() if not k.startswith("norm.")}
    whole = {f"sparse_encoder.sp_cnn.{k}": v for k, v in plain.items()} | {
        key: torch.zeros(1)
        for key in ("dense_decoder.proj.weight", "mask_tokens.0", "densify_norms.0.bias", "imn_m")
    }
    torch.save({"module": whole, "config": "x", "optimizer": {"state": {}}}, tmp_path / "spark.pth")
    torch.save(plain, tmp_path / "spark_timm_style.pth")
    for name in ("spark.pth", "spark_timm_style.pth"):
        assert_same_features(tmp_path / name, model.forward_features)
    assert read_weights(tmp_path / "spark.pth").dropped == {"decoder": 4}


def test_a_hub_directory_of_timm_tells_its_images(tmp_path: Path) -> None:
    model = atto(classes=3)
    config = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "input_size": (3, 96, 64)}
    model.pretrained_cfg.update(config)
    for safe, name in ((True, "safe"), (False, "pickled")):
        timm.models.save_for_hf(
            model, str(tmp_path / name), {"label_names": ["a", "b", "c"]}, safe_serialization=safe
        )
        assert_same_features(tmp_path / name, model.forward_features)
        weights = read_weights(tmp_path / name)
        assert weights.metadata is not None
        assert weights.metadata.image_size == (96, 64)
        assert (weights.metadata.mean, weights.metadata.std) == (config["mean"], config["std"])
        assert weights.classes == ("a", "b", "c")


def test_openclip_s_directory_is_read_without_the_text_tower(tmp_path: Path) -> None:
    model = atto()
    torch.save(Clip(model).state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    config = {
        "model_cfg": {"vision_cfg": {"image_size": 256}},
        "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert_same_features(tmp_path, model.forward_features)
    weights = read_weights(tmp_path)
    assert weights.dropped == {"rest of CLIP": 5}
    assert weights.metadata is not None
    assert weights.metadata.image_size == (256, 256)


@pytest.mark.parametrize("to", ["hub", "hf"])
def test_our_own_directories_are_read_back(tmp_path: Path, to: Any) -> None:
    model = trained("convnextv2_atto", 4, 3)
    # transformers' images are square
    model.image_size = (64, 64)
    saved_run(tmp_path / "run", model, name="convnextv2_atto", stem_stride=4, in_chans=3)
    convert(tmp_path / "run", tmp_path / to, to=to)
    weights, wanted = read_weights(tmp_path / to), read_weights(tmp_path / "run")
    assert weights.metadata == wanted.metadata
    encoder = {k: v for k, v in weights.tensors.items() if not k.startswith("head.norm.")}
    assert encoder.keys() == wanted.tensors.keys()
    assert all(torch.equal(encoder[key], wanted.tensors[key]) for key in encoder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x08\x0a", r"x\.onnx is an ONNX file of another program, .* give what it was exported"),
        (b"weights", r"x\.onnx is damaged or no ONNX file"),
    ],
)
def test_an_onnx_file_of_another_program_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnext_zepto_rms", "its norms have no bias .* RMS norms"),
        ("convnext_atto_rms", "its norms have no bias .* RMS norms"),
        ("convnext_zepto_rms_ols", "stem of two overlapping 3 x 3 convolutions"),
        ("convnext_atto_ols", "stem of two overlapping 3 x 3 convolutions"),
        ("convnext_tiny_hnf", r"2 unused \(norm_pre\.bias, norm_pre\.weight\)"),
    ],
)
def test_variants_with_other_layers_are_refused_by_what_they_are(
    tmp_path: Path, name: str, message: str
) -> None:
    save_file(timm.create_model(name, num_classes=0).state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("convnext_small", "small"), ("convnext_tiny", "tiny"), ("convnext_xlarge", "xlarge")],
)
def test_sizes_of_one_width_are_told_apart_by_depth(name: str, wanted: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(name, num_classes=0).state_dict()
    architecture = infer(state)
    assert architecture.name == f"convnext_{wanted}"
    assert len(canonical(state, architecture)) == len(state)


def test_a_classifier_with_a_hidden_layer_is_dropped_and_said(tmp_path: Path) -> None:
    model = atto("convnext", classes=5, head_hidden_size=16)
    torch.save(model.state_dict(), tmp_path / "x.pt")
    assert_same_features(tmp_path / "x.pt", model.forward_features)
    told = convert(tmp_path / "x.pt", tmp_path / "out.safetensors")
    assert "4 tensors of the classifier with a hidden layer dropped" in told


def test_a_run_is_a_backbone_without_a_file_between(tmp_path: Path) -> None:
    model = trained("convnextv2_atto", 1, 3)
    run = tmp_path / "run"
    step = saved_run(run, model, name="convnextv2_atto", stem_stride=1, in_chans=3)
    convert(run, tmp_path / "out.safetensors")
    wanted, metadata = load_timm(tmp_path / "out.safetensors")
    images = torch.randn(1, 3, *model.image_size)
    for source in (run, step, step / "model.safetensors"):
        found, told = backbone(str(source), RandomConfig())
        assert told == metadata
        with torch.no_grad():
            assert torch.equal(timm_features(found, images), timm_features(wanted, images))
    shutil.rmtree(tmp_path / "run")
