"""Weights from elsewhere: files of every naming, built by hand, hold the encoder they came from."""

import argparse
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from data.config import IMAGENET_MEAN, IMAGENET_STD
from fcmae import FCMAE, convnexts
from fcmae.architecture import Architecture
from fcmae.convert import main
from fcmae.encoder import Encoder
from fcmae.layers import Block, GrnMlp
from fcmae.weights.conversion import convert
from fcmae.weights.files import read_weights
from fcmae.weights.inference import infer
from fcmae.weights.loading import load_encoder
from fcmae.weights.metadata import HEADER, Metadata, header_for
from fcmae.weights.official import to_official
from fcmae.weights.recognition import canonical
from fcmae.weights.safetensors_files import read_converted, read_metadata
from fcmae.weights.timm_models import load_timm, save_timm, to_timm
from fcmae.weights.weight_names import shapes_of, table
from tests.support.models import metadata_of, saved_run, timm_features, trained

Kind = Literal["dense", "sparse", "sparse stem"]


def kernel_of(conv: nn.Conv2d) -> Tensor:
    """MinkowskiEngine's layout, one tap after another: rows run fastest."""
    o, i, k, _ = conv.weight.shape
    kernel = torch.empty(k * k, i, o)
    tap = 0
    for column in range(k):
        for row in range(k):
            kernel[tap] = conv.weight[:, :, row, column].T
            tap += 1
    if conv.groups > 1:
        return kernel[:, 0]
    return kernel[0] if k == 1 else kernel


def official(encoder: nn.Module, kind: Kind) -> dict[str, Tensor]:
    """The state dict that the official model with this encoder's weights would have."""
    assert isinstance(encoder, Encoder)
    state: dict[str, Tensor] = {}
    sparse = kind != "dense"

    def convolution(name: str, conv: nn.Module, *, kernel: bool = sparse) -> None:
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        state[f"{name}.kernel" if kernel else f"{name}.weight"] = (
            kernel_of(conv) if kernel else conv.weight
        )
        state[f"{name}.bias"] = conv.bias[None] if kernel else conv.bias

    def wrapped(name: str, module: nn.Module, wrapper: str, *, inside: bool = sparse) -> None:
        assert isinstance(module, nn.LayerNorm | nn.Linear)
        name = f"{name}.{wrapper}" if inside else name
        state[f"{name}.weight"], state[f"{name}.bias"] = module.weight, module.bias

    in_me = kind == "sparse stem"
    convolution("downsample_layers.0.0", encoder.stem[0], kernel=in_me)
    wrapped("downsample_layers.0.1", encoder.stem[1], "ln", inside=in_me)
    for i, stage in enumerate(encoder.stages):
        if i > 0:
            norm, conv = cast("nn.Sequential", stage.downsample)
            wrapped(f"downsample_layers.{i}.0", norm, "ln")
            convolution(f"downsample_layers.{i}.1", conv)
        for j, block in enumerate(cast("Any", stage.blocks)):
            assert isinstance(block, Block)
            name, ones = f"stages.{i}.{j}", (1,) if sparse else (1, 1, 1)
            convolution(f"{name}.dwconv", block.conv_dw)
            wrapped(f"{name}.norm", block.norm, "ln")
            wrapped(f"{name}.pwconv1", block.mlp.fc1, "linear")
            wrapped(f"{name}.pwconv2", block.mlp.fc2, "linear")
            if isinstance(block.mlp, GrnMlp):
                state[f"{name}.grn.gamma"] = block.mlp.grn.weight.view(*ones, -1)
                state[f"{name}.grn.beta"] = block.mlp.grn.bias.view(*ones, -1)
            if block.gamma is not None:
                state[f"{name}.gamma"] = block.gamma
    return {key: tensor.detach().clone() for key, tensor in state.items()}


def with_decoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same inside of the official FCMAE."""
    decoder = (
        "mask_token",
        "proj.weight",
        "decoder.0.grn.gamma",
        "decoder.1.norm.bias",
        "pred.bias",
    )
    return {f"encoder.{k}": v for k, v in state.items()} | {k: torch.ones(1) for k in decoder}


def plain_features(state: dict[str, Tensor], images: Tensor, stride: int) -> Tensor:
    """The official dense model from the equations: ConvNeXt's block, GRN (V2, eq. 1-3), no head."""

    def norm(x: Tensor, name: str) -> Tensor:
        """LayerNorm over the channels of `[b, c, h, w]`."""
        centred = x - x.mean(1, keepdim=True)
        x = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return x * state[f"{name}.weight"].view(-1, 1, 1) + state[f"{name}.bias"].view(-1, 1, 1)

    def conv(x: Tensor, name: str, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.conv2d(x, weight, bias, stride, padding, groups=groups)

    x = norm(conv(images, "downsample_layers.0.0", stride=stride), "downsample_layers.0.1")
    for i in range(4):
        if i > 0:
            x = conv(norm(x, f"downsample_layers.{i}.0"), f"downsample_layers.{i}.1", stride=2)
        j = 0
        while (name := f"stages.{i}.{j}") + ".dwconv.weight" in state:
            y = norm(conv(x, f"{name}.dwconv", padding=3, groups=x.shape[1]), f"{name}.norm")
            y = y.permute(0, 2, 3, 1)
            y = F.gelu(y @ state[f"{name}.pwconv1.weight"].T + state[f"{name}.pwconv1.bias"])
            if f"{name}.grn.gamma" in state:
                g = y.square().sum((1, 2), keepdim=True).sqrt()
                n = g / (g.mean(-1, keepdim=True) + 1e-6)
                y = state[f"{name}.grn.gamma"] * (y * n) + state[f"{name}.grn.beta"] + y
            y = y @ state[f"{name}.pwconv2.weight"].T + state[f"{name}.pwconv2.bias"]
            if f"{name}.gamma" in state:
                y = y * state[f"{name}.gamma"]
            x = x + y.permute(0, 3, 1, 2)
            j += 1
    return x


def features(model: FCMAE, images: Tensor) -> Tensor:
    """Those of our encoder with every patch visible, as `[b, d, h, w]`."""
    with torch.no_grad():
        found = model.encoder(images, torch.ones(len(images), model.n, dtype=torch.bool))
    return found.mT.unflatten(2, model.grid)


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("kind", ["dense", "sparse", "sparse stem"])
@pytest.mark.parametrize("whole", [False, True], ids=["encoder alone", "with decoder"])
@pytest.mark.parametrize(
    ("name", "stem_stride", "in_chans"),
    [
        ("convnextv2_atto", 4, 3),
        ("convnextv2_atto", 1, 1),
        pytest.param("convnextv2_nano", 2, 5, marks=pytest.mark.slow),
        ("convnext_atto", 4, 3),
    ],
)
def test_official_files_hold_the_encoder(
    tmp_path: Path, name: str, stem_stride: int, in_chans: int, kind: Kind, whole: bool
) -> None:
    model = trained(name, stem_stride, in_chans)
    state = official(model.encoder, kind)
    file = tmp_path / "official.pt"
    torch.save({"model": with_decoder(state) if whole else state}, file)
    weights = read_weights(file)
    assert weights.architecture == Architecture(
        name=name, in_chans=in_chans, stem_stride=stem_stride
    )
    assert weights.metadata is None
    assert weights.dropped == ({"decoder": 5} if whole else {})
    assert_equal(weights.tensors, dict(model.encoder.state_dict()))


@pytest.mark.parametrize("kind", ["dense", "sparse", "sparse stem"])
@pytest.mark.parametrize(
    ("name", "stem_stride"),
    [
        ("convnextv2_atto", 4),
        pytest.param("convnextv2_tiny", 2, marks=pytest.mark.slow),
        ("convnext_atto", 1),
    ],
)
def test_timm_computes_the_features_of_the_official_file(
    tmp_path: Path, name: str, stem_stride: int, kind: Kind
) -> None:
    model = trained(name, stem_stride, 3)
    torch.save({"model": with_decoder(official(model.encoder, kind))}, tmp_path / "official.pt")
    convert(tmp_path / "official.pt", tmp_path / "out.safetensors")
    images = torch.randn(2, 3, *model.image_size)
    with torch.no_grad():
        theirs = timm_features(load_timm(tmp_path / "out.safetensors")[0], images)
    # float32: both sum the same products in another order
    torch.testing.assert_close(features(model, images), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "classes"), [("convnextv2_atto", 0), ("convnext_tiny", 7)])
def test_timm_to_official_to_timm_is_the_identity(tmp_path: Path, name: str, classes: int) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=classes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    save_file(model.state_dict(), tmp_path / "model.safetensors")  # as timm's hub calls it
    told = convert(tmp_path / "model.safetensors", tmp_path / "official.pt", to="official")
    assert "step unknown; final norm kept" in told
    assert ("classifier of 7 classes kept" in told) == (classes == 7)
    convert(tmp_path / "official.pt", tmp_path / "again.safetensors")
    assert_equal(load_file(tmp_path / "again.safetensors"), dict(model.state_dict()))
    assert read_metadata(tmp_path / "again.safetensors").step is None
    plain = timm.create_model(
        name, num_classes=classes, checkpoint_path=str(tmp_path / "again.safetensors")
    )
    assert_equal(dict(plain.state_dict()), dict(model.state_dict()))
    # timm reads the official file as it reads the published ones
    metadata = read_metadata(tmp_path / "again.safetensors")
    assert_equal(
        torch.load(tmp_path / "official.pt", weights_only=True)["model"],
        to_official(canonical(dict(model.state_dict()), metadata.architecture), metadata),
    )
    headless = load_timm(tmp_path / "again.safetensors")[0].state_dict()
    assert headless.keys() == {k for k in model.state_dict() if not k.startswith("head.fc.")}


def test_a_run_survives_the_way_over_official_names(tmp_path: Path) -> None:
    model = trained("convnextv2_atto", 2, 4)
    run = saved_run(tmp_path / "run", model, name="convnextv2_atto", stem_stride=2, in_chans=4)
    convert(run, tmp_path / "direct.safetensors")
    convert(run, tmp_path / "official.pt", to="official")
    convert(tmp_path / "official.pt", tmp_path / "detour.safetensors")
    direct, detour = tmp_path / "direct.safetensors", tmp_path / "detour.safetensors"
    assert_equal(load_file(direct), load_file(detour))
    assert read_metadata(direct) == read_metadata(detour)
    assert read_metadata(detour).step == 7


def test_official_weights_read_by_timm_are_the_same(tmp_path: Path) -> None:
    model = trained("convnextv2_atto", 4, 3)
    saved_run(tmp_path, model, name="convnextv2_atto", stem_stride=4, in_chans=3)
    convert(tmp_path, tmp_path / "out.pt", to="official")
    convert(tmp_path, tmp_path / "out.safetensors")
    filtered = timm.models.convnext.checkpoint_filter_fn(
        torch.load(tmp_path / "out.pt", weights_only=True),
        timm.create_model("convnextv2_atto", num_classes=0),
    )
    assert_equal(filtered, load_file(tmp_path / "out.safetensors"))


def test_every_size_of_both_families_has_a_complete_table() -> None:
    for name in convnexts.NAMES:
        architecture = Architecture(name=name, in_chans=3, stem_stride=4)
        rows, shapes = table(architecture), shapes_of(architecture)
        assert {row.ours for row in rows[:-4]} == shapes.keys()
        assert [row.ours for row in rows[-4:]] == [
            *("head.norm.weight", "head.norm.bias", "head.fc.weight", "head.fc.bias")
        ]
        for names in zip(*rows, strict=True):
            assert len(set(names)) == len(names)
        metadata = Metadata(
            model=name, image_size=(64, 64), in_chans=3, mean=(0.5,), std=(0.5,), stem_stride=4,
            step=None,
        )  # fmt: skip
        with torch.device("meta"):
            state = {key: torch.empty(shape) for key, shape in shapes.items()}
            named = to_official(state, metadata)
        assert infer(named) == architecture
        back = canonical(named, architecture)
        assert {k: v.shape for k, v in back.items() if not k.startswith("head.")} == shapes


def test_what_a_file_lacks_and_has_too_much_is_listed_in_one_line(tmp_path: Path) -> None:
    state = official(trained("convnextv2_atto", 4, 3).encoder, "sparse")
    state["stages.0.0.dwconv.weight"] = torch.zeros(40, 1, 7, 7)  # beside its kernel
    state["fpn.bias"] = torch.zeros(1)
    state["stages.3.1.norm.ln.weight"] = torch.ones(10)
    for key in [key for key in state if key.startswith("stages.2.4.")]:
        del state[key]
    torch.save({"model": with_decoder(state)}, tmp_path / "wrong.pt")
    with pytest.raises(ValueError, match="are not those of") as error:
        convert(tmp_path / "wrong.pt", tmp_path / "out.safetensors")
    assert str(error.value) == (
        f"{tmp_path}/wrong.pt: the weights are not those of convnextv2_atto with stem_stride=4 and"
        " in_chans=3: 10 missing (encoder.stages.2.4.dwconv.weight,"
        " encoder.stages.2.4.dwconv.bias, encoder.stages.2.4.norm.weight,"
        " encoder.stages.2.4.norm.bias and 6 more); 2 unused (encoder.fpn.bias,"
        " encoder.stages.0.0.dwconv.kernel); 1 of another shape (encoder.stages.3.1.norm.ln.weight"
        " [10] for [320])"
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "wrong.pt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("norm.bias"), r"1 missing \(norm\.bias\); 0 unused"),
        (lambda s: s.pop("head.weight"), r"1 missing \(head\.weight\); 0 unused"),
        (
            lambda s: [s.pop("norm.weight"), s.pop("norm.bias")],
            r"2 missing \(norm\.weight, norm\.b",
        ),
        (lambda s: s.update({"encoder.x": s["norm.bias"]}), r"0 missing; 1 unused \(encoder\.x\)"),
        (lambda s: s.update({"stages.0.2.gamma": torch.ones(40)}), r"1 unused \(stages\.0\.2\.gam"),
        (
            lambda s: s.update({"head.bias": torch.ones(8)}),
            r"1 of another shape \(head\.bias \[8\]",
        ),
        (
            lambda s: s.pop("downsample_layers.0.0.weight"),
            r"the model cannot be inferred: the stem's convolution is missing",
        ),
        (
            lambda s: s.update({"downsample_layers.0.0.weight": torch.ones(250, 3, 4, 4)}),
            r"1 of another shape \(downsample_layers\.0\.0\.weight \[250, 3, 4, 4\] for \[40, 3",
        ),
        (
            lambda s: (
                [s.pop(k) for k in list(s) if k.startswith("stages.3.")],
                s.update({"downsample_layers.0.0.weight": torch.ones(250, 3, 4, 4)}),
            ),
            r"not all stages have blocks and norms, .* stem's width 250 is none of 40 \(atto\)",
        ),
        (
            lambda s: s.update({"downsample_layers.0.0.weight": torch.ones(40, 3, 7, 7)}),
            "the stem's kernel of 7 x 7 is none of 4, 2, 1",
        ),
        (
            lambda s: s.update({"downsample_layers.0.0.weight": torch.ones(40)}),
            r"in_chans cannot be inferred: downsample_layers\.0\.0\.weight of \[40\] is no conv",
        ),
        (
            lambda s: [s.pop(k) for k in list(s) if ".grn." in k],
            "V1 or V2 cannot be inferred: there is neither GRN",
        ),
    ],
)
def test_a_partial_file_is_explained(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    state = official(trained("convnextv2_atto", 4, 3).encoder, "dense") | {
        "norm.weight": torch.ones(320),
        "norm.bias": torch.ones(320),
        "head.weight": torch.ones(5, 320),
        "head.bias": torch.ones(5),
    }
    torch.save({"model": state}, tmp_path / "whole.pt")
    kept = read_weights(tmp_path / "whole.pt").tensors
    assert torch.equal(kept["head.norm.bias"], torch.ones(320))
    assert kept["head.fc.weight"].shape == (5, 320)
    change(state)
    torch.save({"model": state}, tmp_path / "partial.pt")
    with pytest.raises(ValueError, match=message) as error:
        read_weights(tmp_path / "partial.pt")
    assert str(error.value).startswith(f"{tmp_path}/partial.pt: ")
    assert "\n" not in str(error.value)


def test_saved_arguments_are_read_and_other_objects_are_not(tmp_path: Path) -> None:
    encoder = trained("convnextv2_atto", 4, 3).encoder
    content = {
        "model": official(encoder, "sparse"),
        "args": argparse.Namespace(lr=1e-4),
        "epoch": 3,
    }
    torch.save(content, tmp_path / "arguments.pt")
    assert_equal(read_weights(tmp_path / "arguments.pt").tensors, dict(encoder.state_dict()))
    torch.save(content | {"where": Path("x")}, tmp_path / "path.pt")
    with pytest.raises(ValueError, match=r"path\.pt holds a pathlib\S+, and pickled objects may"):
        read_weights(tmp_path / "path.pt")


@pytest.mark.parametrize("damage", [b"", b"short", b"\x80\x02junk", b"a" * 100, None])
def test_a_damaged_file_is_said_to_be(tmp_path: Path, damage: bytes | None) -> None:
    file = tmp_path / "x.pt"
    torch.save({"model": {"a": torch.zeros(1000)}}, file)
    file.write_bytes(file.read_bytes()[:1500] if damage is None else damage)
    with pytest.raises(ValueError, match=r"x\.pt is damaged or no PyTorch file"):
        read_weights(file)
    file.rename(file.with_suffix(".safetensors"))
    with pytest.raises(ValueError, match=r"x\.safetensors is no safetensors file"):
        read_weights(file.with_suffix(".safetensors"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"optimizer": {}}, r"holds no state dict: 1 entries hold no tensors \(optimizer\)"),
        ([1], "holds no state dict"),
        (
            {"model": {"a": torch.zeros(1)}},
            r"no ConvNeXt: neither the stem of .* among its 1 tensors \(a\)",
        ),
    ],
)
def test_a_file_without_an_encoder_is_explained(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "x.pth")


def test_what_is_no_file_of_weights_is_named(tmp_path: Path) -> None:
    for content, message in (
        (b"", r"x\.bin is damaged or no PyTorch file"),
        (b"<!doctype html>", r"x\.bin is a page, not weights: download the file itself"),
        (b"version https://git-lfs.github.com/spec/v1", r"x\.bin is a pointer of Git LFS"),
    ):
        (tmp_path / "x.bin").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_weights(tmp_path / "x.bin")
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"fcmae": '{"model": 1}'})
    with pytest.raises(ValueError, match="the metadata under 'fcmae' are damaged: "):
        read_weights(tmp_path / "x.safetensors")
    with pytest.raises(FileNotFoundError, match=r"none\.pt holds no checkpoint; give a run"):
        read_weights(tmp_path / "none.pt")


def test_weights_that_are_not_finite_are_refused_wherever_they_are_read(tmp_path: Path) -> None:
    tensors = trained("convnextv2_atto", 4, 3).encoder.state_dict()
    name = next(name for name in tensors if name.startswith("stages.1.") and name.endswith("bias"))
    tensors[name][5] = torch.nan
    metadata = metadata_of(trained("convnextv2_atto", 4, 3), "convnextv2_atto", 4, 3)
    official, converted = tmp_path / "official.pt", tmp_path / "converted.safetensors"
    torch.save({"model": to_official(tensors, metadata)}, official)
    save_timm(converted, to_timm(tensors, metadata), metadata)
    message = r"has values that are not finite in 1 of \d+ tensors, stages\.1\.\S*bias:"
    for path in (official, converted):
        with pytest.raises(ValueError, match=message):
            read_weights(path)
    with pytest.raises(ValueError, match=message):
        read_converted(converted)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e5m2])
def test_weights_of_other_types_than_floats_are_refused_by_tensor(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model = trained("convnextv2_atto", 4, 3)
    tensors = model.encoder.state_dict()
    name = next(name for name in tensors if name.startswith("stages.1.") and name.endswith("bias"))
    tensors[name] = tensors[name].to(dtype)
    metadata = metadata_of(model, "convnextv2_atto", 4, 3)
    path = tmp_path / "converted.safetensors"
    save_file(to_timm(tensors, metadata), path, header_for(metadata, {}))
    with pytest.raises(
        ValueError, match=rf"has the tensor {name} of type {dtype}, and weights are"
    ):
        read_weights(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"mean": [float("nan")]}, "'mean' is nan, and not a finite number"),
        ({"std": [10**400]}, "'std' is 1000"),
        ({"std": [-0.5]}, "std has the value -0.5, which is not above 0"),
        ({"std": [0]}, "std has the value 0.0, which is not above 0"),
        ({"range": [1, 1]}, "range is .*, which does not go up"),
        ({"mean": []}, "mean has 0 values for 3 channels"),
        ({"in_chans": 10**9}, "sides and channels of images are 1 to 65536"),
        ({"image_size": [32, True]}, "'image_size' is True"),
        ({"range": [0, "1"]}, "'range' is"),
        ({"pixels": "int4"}, "'pixels' is 'int4', and not one of uint8, float32"),
        ({"model": None}, "'model' is None"),
        ({"extra": 1}, "the unknown field 'extra'"),
    ],
)
def test_metadata_are_checked_before_they_are_believed(
    change: dict[str, object], why: str, tmp_path: Path
) -> None:
    model = trained("convnextv2_atto", 4, 3)
    metadata = metadata_of(model, "convnextv2_atto", 4, 3)
    damaged = json.dumps(json.loads(header_for(metadata, {})[HEADER]) | change)
    path = tmp_path / "converted.safetensors"
    save_file(to_timm(model.encoder.state_dict(), metadata), path, {HEADER: damaged})
    for read in (read_weights, read_converted):
        with pytest.raises(ValueError, match=rf"converted\.safetensors.*{why}"):
            read(path)


def test_tensors_that_are_larger_than_their_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"stem.0.weight": torch.zeros(1).expand(2**40)}, path)
    with pytest.raises(ValueError, match=r"has the tensor stem\.0\.weight, which is larger than"):
        read_weights(path)
    torch.save({"stem.0.weight": torch.zeros(2**20)}, path)
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(tmp_path / "z.pt", "w", 8) as smaller:
        for name in stored.namelist():
            smaller.writestr(name, stored.read(name))
    with pytest.raises(ValueError, match=r"z\.pt is damaged or no PyTorch file"):
        read_weights(tmp_path / "z.pt")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "null"),
        ("config.json", '{"model_type": "convnext", "id2label": {"x": "cat"}}'),
        ("config.json", '{"mean": [NaN]}'),
        ("config.json", '{"input_size": 7}'),
        ("config.json", '{"pretrained_cfg": []}'),
        ("open_clip_config.json", '{"model_cfg": 1}'),
        ("config.json", "[" * 9999),
    ],
)
def test_what_lies_beside_weights_is_checked(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="has a damaged file beside the weights"):
        read_weights(tmp_path)


def test_an_index_of_parts_names_files_beside_it(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    for names in ('{"a": "../b.safetensors"}', "[]", '{"a": null}'):
        index.write_text(f'{{"weight_map": {names}}}')
        with pytest.raises(ValueError, match=r"index\.json is no index of weights in parts"):
            read_weights(tmp_path)


def test_timm_state_dicts_need_no_header(tmp_path: Path) -> None:
    model = trained("convnextv2_atto", 1, 3)
    whole = to_timm(model.encoder.state_dict(), metadata_of(model, "convnextv2_atto", 1, 3))
    published = {k: v for k, v in whole.items() if not k.startswith("head.norm.")}  # timm's .fcmae
    torch.save(published, tmp_path / "timm.pt")
    convert(tmp_path / "timm.pt", tmp_path / "out.safetensors", image_size=(16, 24), mean=(0.5,))
    assert_equal(load_file(tmp_path / "out.safetensors"), whole)
    assert read_metadata(tmp_path / "out.safetensors") == Metadata(
        model="convnextv2_atto",
        image_size=(16, 24),
        in_chans=3,
        mean=(0.5,),
        std=IMAGENET_STD,
        stem_stride=1,
        step=None,
    )


def test_a_checkpoint_file_alone_tells_its_model(tmp_path: Path) -> None:
    for name in ("convnextv2_atto", "convnext_atto"):  # the decoder has GRN in both
        model = trained(name, 2, 4)
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        weights = read_weights(tmp_path / "model.safetensors")
        assert weights.architecture == Architecture(name=name, in_chans=4, stem_stride=2)
        assert weights.dropped == {"decoder": len(model.decoder.state_dict())}
        assert_equal(weights.tensors, dict(model.encoder.state_dict()))


def test_what_nothing_tells_is_imagenet_s(tmp_path: Path) -> None:
    torch.save(official(trained("convnextv2_atto", 4, 3).encoder, "dense"), tmp_path / "x.pt")
    convert(tmp_path / "x.pt", tmp_path / "out.safetensors")
    metadata = read_metadata(tmp_path / "out.safetensors")
    assert metadata.image_size == (224, 224)
    assert (metadata.mean, metadata.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_flags_fill_what_the_file_does_not_tell_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained("convnextv2_atto", 4, 13)
    file, out = tmp_path / "in.pt", tmp_path / "out.safetensors"
    torch.save({"model": official(model.encoder, "sparse")}, file)
    with pytest.raises(ValueError, match=r"cannot be inferred for in_chans=13, .* give --mean and"):
        convert(file, out, mean=(0.5,))
    with pytest.raises(ValueError, match="--std has 3 values for in_chans=13: give one"):
        convert(file, out, mean=(0.5,), std=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="image_size=100 must be a multiple of patch_size=32"):
        convert(file, out, image_size=100, mean=(0.5,), std=(0.5,))
    with pytest.raises(ValueError, match=r"must end in \.pt or \.pth for --to official"):
        convert(file, out, to="official")
    main([str(file), str(out), *["--image_size", "64", "--mean", "0.5", "--std", "0.25"]])
    assert capsys.readouterr().out == (
        f"{out}: timm convnextv2_atto, step unknown;"
        " final norm, not in the source, is the identity;"
        " image_size=(64, 64), mean=(0.5,), std=(0.25,) are not in the source but flags or"
        " defaults\n"
    )
    with pytest.raises(ValueError, match=r"tells itself of image_size=\(64, 64\), .* leave these"):
        convert(out, tmp_path / "again.safetensors", image_size=64)


def architecture_of(
    name: str = "convnextv2_atto", stem_stride: int = 4, in_chans: int = 3
) -> Architecture:
    return Architecture(name=name, stem_stride=stem_stride, in_chans=in_chans)


def test_an_encoder_starts_from_any_file_and_sees_hidden_patches_alike(tmp_path: Path) -> None:
    source = trained("convnextv2_atto", 4, 3)
    saved_run(tmp_path / "run", source, name="convnextv2_atto", stem_stride=4, in_chans=3)
    torch.save({"model": with_decoder(official(source.encoder, "sparse"))}, tmp_path / "sparse.pt")
    convert(tmp_path / "run", tmp_path / "dense.pt", to="official")
    convert(tmp_path / "run", tmp_path / "timm.safetensors")
    images = torch.randn(2, 3, *source.image_size)
    visible = torch.tensor([[True, False, True, False, False, True]]).expand(2, -1)
    with torch.no_grad():
        expected = source.encoder(images, visible)
    for name in ("run", "sparse.pt", "dense.pt", "timm.safetensors"):
        model = FCMAE(image_size=source.image_size, generator=torch.Generator().manual_seed(5))
        fresh = {k: v.clone() for k, v in model.decoder.state_dict().items()}
        told = load_encoder(model.encoder, tmp_path / name, architecture_of())
        assert told.startswith(
            f"encoder from {tmp_path / name} (convnextv2_atto with stem_stride=4"
        )
        assert ("without its head.norm.*" in told) == (name in ("dense.pt", "timm.safetensors"))
        with torch.no_grad():
            assert torch.equal(model.encoder(images, visible), expected), name
        assert_equal(dict(model.decoder.state_dict()), fresh)


@pytest.mark.parametrize(
    "wanted",
    [
        architecture_of("convnextv2_femto"),
        architecture_of("convnext_atto"),
        architecture_of(stem_stride=2),
        architecture_of(in_chans=1),
    ],
)
def test_weights_of_another_architecture_are_refused(tmp_path: Path, wanted: Architecture) -> None:
    file = tmp_path / "x.pt"
    torch.save({"model": official(trained("convnextv2_atto", 4, 3).encoder, "dense")}, file)
    encoder = Encoder(wanted)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    with pytest.raises(ValueError, match=r"x\.pt is convnextv2_atto with stem_stride=4") as error:
        load_encoder(encoder, file, wanted)
    assert f"but the run trains {wanted.name} with stem_stride={wanted.stem_stride}" in str(
        error.value
    )
    assert_equal(dict(encoder.state_dict()), before)


def test_metadata_beside_official_weights_is_json(tmp_path: Path) -> None:
    model = trained("convnextv2_atto", 1, 1)
    saved_run(tmp_path, model, name="convnextv2_atto", stem_stride=1, in_chans=1)
    convert(tmp_path, tmp_path / "out.pt", to="official")
    content = torch.load(tmp_path / "out.pt", weights_only=True)
    assert content.keys() == {"model", "fcmae"}
    assert json.loads(content["fcmae"])["image_size"] == [16, 24]
