"""Weights of MAE's ViTs: out of timm's and MAE's files and ours, into timm's models and ONNX."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import fcmae
from fcmae import FCMAE
from fcmae.architecture import Architecture
from fcmae.run import checkpoint
from fcmae.run.checkpoint import TrainState
from fcmae.weights.conversion import convert
from fcmae.weights.files import read_weights
from fcmae.weights.loading import load_encoder
from fcmae.weights.timm_creation import create_timm
from fcmae.weights.timm_models import load_timm
from fcmae.weights.vits import fixed
from tests.support.generators import generator

SIZE = (16, 24)  # 4 x 6 patches of 4 pixels
MODEL = {"name": "mae_vit_tiny", "image_size": SIZE, "in_chans": 1, "stem_stride": 1}
ARCHITECTURE = Architecture(**MODEL)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model() -> FCMAE:
    return FCMAE(**MODEL, decoder_dim=32, decoder_depth=1, generator=generator(0)).eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, model: FCMAE) -> Path:
    """A run of pretraining, of one checkpoint."""
    path = tmp_path_factory.mktemp("runs") / "vit"
    config = {
        "model": {**MODEL, "image_size": list(SIZE), "decoder_dim": 32, "decoder_depth": 1},
        "data": {"mean": [0.5], "std": [0.25]},
    }
    files = checkpoint.snapshot(model, torch.optim.AdamW(model.parameters()))
    checkpoint.save(path, TrainState(7, 56), files, json.dumps(config))
    return path


@pytest.fixture(scope="module")
def converted(run: Path) -> Path:
    out = run.parent / "encoder.safetensors"
    convert(run, out)
    return out


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 1, *SIZE, generator=generator(1))


def of_everything(model: FCMAE, images: Tensor) -> Tensor:
    return model.encoder(images, torch.ones(len(images), model.n, dtype=torch.bool))


def mae_file(path: Path, *, wrapped: str = "", size: int = 224) -> tuple[Path, nn.Module]:
    """A checkpoint as MAE's code saves it, with its decoder, and timm's model of its encoder."""
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=size).eval()
    architecture = Architecture(name="mae_vit_tiny", image_size=size)
    state = theirs.state_dict() | {"pos_embed": fixed(architecture)}
    theirs.load_state_dict(state)
    decoder = FCMAE(name="mae_vit_tiny", image_size=size, decoder_depth=1).decoder
    state |= {f"decoder_{name}": t for name, t in decoder.state_dict().items() if "." in name}
    state = {k.replace("decoder_project", "decoder_embed"): v for k, v in state.items()}
    state = {k.replace("decoder_predict", "decoder_pred"): v for k, v in state.items()}
    state |= {"mask_token": torch.zeros(1, 1, 512), "decoder_pos_embed": torch.zeros(1, 197, 512)}
    torch.save({"model": {wrapped + key: tensor for key, tensor in state.items()}}, path)
    return path, theirs


def test_a_run_becomes_timm_s_model_with_its_features(
    model: FCMAE, converted: Path, images: Tensor
) -> None:
    named = load_file(converted)
    # MAE's fixed positions are written down for timm, which has no others
    theirs = timm.create_model(
        *("vit_tiny_patch16_224",), num_classes=0, img_size=SIZE, patch_size=4, in_chans=1
    ).eval()
    assert isinstance(theirs, VisionTransformer)
    theirs.load_state_dict(named)
    with torch.no_grad():
        expected = of_everything(model, images)
        found = theirs.forward_features(images)[:, 1:]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        ours, metadata = load_timm(converted)
        pooled = ours.eval()(images)  # of the patches, behind the norm
    torch.testing.assert_close(pooled, expected.mean(1), rtol=1e-4, atol=1e-5)
    assert metadata.architecture == ARCHITECTURE
    assert metadata.step == 7


def test_features_of_pictures_are_those_of_the_encoder(model: FCMAE, run: Path) -> None:
    picture = torch.rand(1, *SIZE, generator=generator(2))
    found = fcmae.features(run, [picture])
    with torch.no_grad():
        expected = of_everything(model, (picture[None] - 0.5) / 0.25).mean(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrapped", ["", "module.", "student.backbone."])
def test_mae_s_checkpoints_are_read_without_their_decoder(wrapped: str, tmp_path: Path) -> None:
    source, theirs = mae_file(tmp_path / "mae_pretrain.pth", wrapped=wrapped, size=48)
    told = convert(source, tmp_path / "out.safetensors")
    assert "timm mae_vit_tiny, step unknown" in told
    assert " tensors of the decoder dropped" in told
    found = load_file(tmp_path / "out.safetensors")
    expected = theirs.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    weights = read_weights(source)
    assert weights.architecture == Architecture(name="mae_vit_tiny", image_size=48)


def test_pretraining_starts_from_mae_s_weights_at_any_image_size(tmp_path: Path) -> None:
    source, theirs = mae_file(tmp_path / "mae.pth", size=48)
    began = FCMAE(name="mae_vit_tiny", image_size=32, decoder_depth=1)
    told = load_encoder(began.encoder, source, Architecture(name="mae_vit_tiny", image_size=32))
    assert told == f"encoder from {source} (mae_vit_tiny with stem_stride=4 and in_chans=3)"
    expected = theirs.state_dict()
    state = began.encoder.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


def test_learned_positions_start_no_pretraining(tmp_path: Path) -> None:
    supervised = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    save_file(supervised.state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=r"vit\.safetensors: its positions have been learned"):
        load_encoder(nn.Identity(), tmp_path / "vit.safetensors", Architecture(name="mae_vit_tiny"))


def test_a_vit_with_its_classifier_is_kept_whole(tmp_path: Path) -> None:
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=3).eval()
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    told = convert(tmp_path / "vit.safetensors", tmp_path / "out.safetensors")
    assert "classifier of 3 classes kept" in told
    found, expected = load_file(tmp_path / "out.safetensors"), theirs.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_directory_of_the_hub_loads_in_timm(converted: Path, images: Tensor) -> None:
    out = converted.parent / "hub"
    convert(converted, out, to="hub")
    theirs = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    ours, _ = load_timm(converted)
    with torch.no_grad():
        assert torch.equal(theirs(images), ours.eval()(images))
    card = (out / "README.md").read_text()
    assert "ViT, pretrained without labels as a masked autoencoder ([MAE]" in card
    assert "patches of 4 px; img_size=(HEIGHT, WIDTH) takes other sizes" in card
    code = "model.forward_head(model.forward_features(images), pre_logits=True)"
    assert f"features = {code}  # [batch, 192]" in card
    features = eval(code, {"model": theirs, "images": images})
    assert features.shape == (2, 192)
    again = read_weights(out)
    assert again.metadata == read_weights(converted).metadata


def test_what_a_vit_cannot_become_is_said(converted: Path, tmp_path: Path) -> None:
    for to in ("official", "hf"):
        with pytest.raises(ValueError, match=f"--to {to} is for ConvNeXt: mae_vit_tiny goes to"):
            convert(converted, tmp_path / "out.pt", to=to)
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(converted), bare)
    with pytest.raises(
        ValueError, match=r"pos_embed of \[1, 25, 192\] is not that of a class token"
    ):
        read_weights(bare)
    source, _ = mae_file(tmp_path / "mae.pth", size=48)
    with pytest.raises(ValueError, match=r"image_size=64 is not that of the ViT's positions, \(48"):
        convert(source, tmp_path / "out.safetensors", image_size=64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_name": "vit_tiny_patch16_224", "global_pool": "avg"}, "its norm follows the pool"),
        ({"model_name": "vit_tiny_patch16_224", "embed_dim": 96}, "a token's width 96 is none of"),
        ({"model_name": "vit_tiny_patch16_224", "patch_size": 32}, "its patches of 32 pixels are"),
        ({"model_name": "vit_tiny_patch16_224", "reg_tokens": 4}, "pos_embed of .* a class token"),
        ({"model_name": "vit_tiny_patch16_224", "depth": 3}, "missing .blocks.3.norm1.weight"),
        ({"model_name": "vit_tiny_patch16_224", "init_values": 1e-5}, "unused .*ls1.gamma"),
    ],
)
def test_a_vit_that_mae_does_not_have_is_refused(
    options: dict, message: str, tmp_path: Path
) -> None:
    theirs = timm.create_model(**options, num_classes=0)
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "vit.safetensors")


@pytest.mark.slow
def test_an_onnx_file_has_the_size_of_the_positions_and_all_weights(
    model: FCMAE, converted: Path, images: Tensor, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    import onnxruntime

    told = convert(converted, tmp_path / "vit.onnx", to="onnx")
    assert "onnxruntime differs from torch by at most" in told
    session = onnxruntime.InferenceSession(tmp_path / "vit.onnx")
    (found,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = of_everything(model, images).mean(1)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4)
    assert "height 16 and width 24" in session.get_modelmeta().custom_metadata_map["input"]
    again, before = read_weights(tmp_path / "vit.onnx"), read_weights(converted)
    assert again.metadata == before.metadata
    assert not again.notes
    assert all(torch.equal(again.tensors[name], t) for name, t in before.tensors.items())


def test_fine_tuning_takes_other_sizes_by_interpolation(converted: Path) -> None:
    from finetune.models.classifier import create
    from finetune.models.config import BackboneConfig

    config = BackboneConfig(weights=str(converted), image_size=(32, 24))
    tuned, metadata = create(config, outputs=3, seed=0, say=print)
    assert metadata.image_size == (32, 24)
    assert tuned.get_parameter("pos_embed").shape == (1, 1 + 8 * 6, 192)
    assert tuned(torch.zeros(1, 1, 32, 24)).shape == (1, 3)
    again = create_timm(replace(metadata), num_classes=3)
    again.load_state_dict(tuned.state_dict())  # what is written is read back
    with pytest.raises(ValueError, match="image_size=30 must be a multiple of patch_size=4"):
        create(replace(config, image_size=30), outputs=3, seed=0, say=print)
