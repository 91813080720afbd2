"""ConvMAE among files: public ones in both of their forms, and ours to probe and fine-tune."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fcmae import FCMAE
from fcmae.architecture import Architecture
from fcmae.convmaes import SIZES, ConvMAESize
from fcmae.encoders.convvit import ConvViT
from fcmae.encoders.transformer import positions
from fcmae.weights.conversion import convert
from fcmae.weights.files import read_weights
from fcmae.weights.loading import load_encoder
from fcmae.weights.timm_models import as_timm, load_timm
from finetune.models import classifier
from finetune.models.config import BackboneConfig, RandomConfig
from finetune.models.layer_decay import layers, parameter_groups
from tests.support.generators import generator
from tests.support.models import saved_run
from tests.support.twins import randomise

NAME = "convmae_small"
FEW = ConvMAESize(widths=(8, 12, 24), depths=(1, 1, 2), heads=2, expansion=3)
POINTWISE = re.compile(r"blocks[12]\..*(conv[12]|fc[12])\.weight")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer and smaller layers of the same kinds."""
    monkeypatch.setitem(SIZES, "small", FEW)


def model_of(size: int = 32) -> FCMAE:
    model = FCMAE(
        name=NAME, image_size=size, stem_stride=2, ratio=0.75, decoder_dim=32, decoder_depth=1,
        sparse="reference", generator=generator(0),
    )  # fmt: skip
    randomise(model)
    return model


def run_of(folder: Path, model: FCMAE) -> Path:
    saved_run(folder, model, name=NAME, stem_stride=2, in_chans=3)
    return folder


def pretrained(model: FCMAE) -> dict[str, Tensor]:
    """What the public pretraining would save of this model: its own names, shapes and positions."""
    state = {
        name: tensor[..., None, None] if POINTWISE.fullmatch(name) else tensor
        for name, tensor in model.encoder.state_dict().items()
    }
    state["pos_embed"] = positions(model.grid, 24)[None]
    for name in ("mask_token", "decoder_pos_embed", "decoder_embed.bias", "decoder_blocks.0.x"):
        state[name] = torch.ones(1)
    return state


def fine_tuned(model: FCMAE, classes: int = 3) -> dict[str, Tensor]:
    """What the public fine-tuning would save: no fusion, a norm behind the pooling, a head."""
    gone = ("stage", "norm.", "mask_token", "decoder")
    state = {k: v for k, v in pretrained(model).items() if not k.startswith(gone)}
    state["pos_embed"] = state["pos_embed"] + 0.1
    state |= {"fc_norm.weight": torch.full((24,), 1.5), "fc_norm.bias": torch.full((24,), 0.25)}
    draws = generator(7)
    head = torch.randn(classes, 24, generator=draws)
    return state | {"head.weight": head, "head.bias": torch.arange(float(classes))}


def maps_of(model: FCMAE, images: Tensor) -> Tensor:
    """The features of whole images."""
    with torch.no_grad():
        found = model.encoder(images, torch.ones(len(images), model.n, dtype=torch.bool))
    return found.mT.unflatten(2, model.grid)


def images_of(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=generator(1))


def test_public_files_of_pretraining_hold_the_encoder(tmp_path: Path) -> None:
    model = model_of()
    state = pretrained(model)
    torch.save(
        {"model": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "x.pth"
    )
    weights = read_weights(tmp_path / "x.pth")
    assert weights.architecture == Architecture(name=NAME, stem_stride=2, image_size=32)
    assert weights.dropped == {"decoder": 4, "fixed positions": 1}
    encoder = model.encoder.state_dict()
    assert weights.tensors.keys() == encoder.keys()
    assert all(torch.equal(weights.tensors[k], encoder[k]) for k in encoder)
    run = run_of(tmp_path / "run", model)
    convert(run, tmp_path / "out.pt", to="official")
    back = torch.load(tmp_path / "out.pt", weights_only=True)["model"]
    wanted = {k: v for k, v in state.items() if not k.startswith(("mask", "decoder"))}
    assert back.keys() == wanted.keys()
    assert all(torch.equal(back[k], wanted[k]) for k in wanted)


def test_frozen_features_are_those_of_the_encoder_with_everything_visible(tmp_path: Path) -> None:
    model = model_of()
    run = run_of(tmp_path / "run", model)
    convert(run, tmp_path / "w.safetensors")
    for source in (run, tmp_path / "w.safetensors"):
        loaded: Any
        loaded, metadata = load_timm(source)
        assert metadata.architecture.same_tensors(Architecture(name=NAME, stem_stride=2))
        for size in (32, 48):  # the positions are computed for each
            images = images_of(size)
            visible = torch.ones(2, (size // 8) ** 2, dtype=torch.bool)
            with torch.no_grad():
                found = loaded.eval().forward_features(images)
                wanted = model.encoder(images, visible).mT.unflatten(2, (size // 8, size // 8))
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    stages = loaded.forward_intermediates(images, 3, intermediates_only=True)
    assert [x.shape[1:] for x in stages] == [(8, 24, 24), (12, 12, 12), (24, 6, 6)]


def test_public_files_of_fine_tuning_hold_the_classifier(tmp_path: Path) -> None:
    model = model_of()
    state = fine_tuned(model)
    torch.save({"model": state}, tmp_path / "x.pth")
    convert(tmp_path / "x.pth", tmp_path / "w.safetensors", mean=(0.5,), std=(0.25,))
    weights = read_weights(tmp_path / "w.safetensors")
    assert weights.metadata is not None
    assert weights.metadata.image_size == (32, 32)  # as many positions as there are
    loaded: Any = as_timm(weights.tensors, weights.metadata).eval()
    images = images_of()
    with torch.no_grad():
        loaded.pos_embed.copy_(state["pos_embed"])
        found = loaded(images)
        tokens = loaded.forward_features(images).flatten(2).mean(2)
    centred = tokens - tokens.mean(1, keepdim=True)
    normed = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt() * 1.5 + 0.25
    wanted = normed @ state["head.weight"].T + state["head.bias"]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    convert(tmp_path / "w.safetensors", tmp_path / "out.pt", to="official")
    back = torch.load(tmp_path / "out.pt", weights_only=True)["model"]
    assert back.keys() == state.keys()
    assert all(torch.equal(back[k], state[k]) for k in state)
    with pytest.raises(ValueError, match="64 patches, and there are 16 learned positions: leave"):
        convert(tmp_path / "x.pth", tmp_path / "y.safetensors", image_size=64)
    with pytest.raises(ValueError, match=r"x\.pth: its stages are not fused, since it is fine-tun"):
        load_encoder(model.encoder, tmp_path / "x.pth", Architecture(name=NAME, stem_stride=2))
    frozen: Any = load_timm(tmp_path / "w.safetensors")[0]  # its features, without the head
    with torch.no_grad():
        torch.testing.assert_close(frozen.eval().forward_features(images).mean((2, 3)), tokens)


def test_fine_tuning_starts_from_the_encoder_without_its_fusion(tmp_path: Path) -> None:
    model = model_of()
    run = run_of(tmp_path / "run", model)
    config = BackboneConfig(weights=str(run), drop_path=0.1, image_size=48)
    tuned, metadata = classifier.create(config, 5, seed=0, say=lambda _: None)
    assert isinstance(tuned, ConvViT)
    assert metadata.image_size == (48, 48)
    state, encoder = tuned.state_dict(), model.encoder.state_dict()
    assert {k for k in state if k not in encoder} == {
        *("pos_embed", "head.norm.weight", "head.norm.bias", "head.fc.weight", "head.fc.bias")
    }
    assert {k for k in encoder if k not in state} == {
        f"{part}.{leaf}"
        for part in ("stage1_output_decode", "stage2_output_decode", "norm")
        for leaf in ("weight", "bias")
    }
    assert all(torch.equal(state[k], encoder[k]) for k in state.keys() & encoder.keys())
    assert state["pos_embed"].shape == (1, 36, 24)
    rates = [block.drop_path for block in (*tuned.blocks1, *tuned.blocks2)]
    assert [getattr(rate, "drop_prob", 0.0) for rate in rates] == pytest.approx([0, 0.1 / 3])
    scratch, _ = classifier.create(
        BackboneConfig(random=RandomConfig(name=NAME, image_size=32, stem_stride=2)), 5, 0
    )
    assert scratch(images_of()).shape == (2, 5)


def test_layers_decay_as_published(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", model_of())
    tuned, _ = load_timm(run, num_classes=5)
    found = layers(tuned, "layer")
    assert {found[k] for k in found if k.startswith(("patch_embed", "blocks1", "blocks2"))} == {0}
    assert found["pos_embed"] == 0
    assert found["blocks3.0.attn.qkv.weight"] == 1
    assert found["blocks3.1.mlp.fc2.bias"] == 2
    assert {found[k] for k in found if k.startswith("head")} == {3}
    groups = parameter_groups(tuned, 0.05, 0.65, "layer")
    assert sorted({group["scale"] for group in groups}) == pytest.approx(
        [0.65**3, 0.65**2, 0.65, 1]
    )
    (positions_group,) = [g for g in groups if any(p is tuned.pos_embed for p in g["params"])]
    assert positions_group["weight_decay"] == 0


@pytest.mark.parametrize("to", ["hub", "hf", "official-sparse"])
def test_what_nobody_else_loads_is_refused(tmp_path: Path, to: Any) -> None:
    run = run_of(tmp_path / "run", model_of())
    out = tmp_path / ("out.pt" if to == "official-sparse" else "out")
    with pytest.raises(ValueError, match=rf"--to {to} is for models that timm or transformers has"):
        convert(run, out, to=to)


@pytest.mark.slow
def test_onnx_computes_the_features(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", model_of())
    assert "onnxruntime differs from torch" in convert(run, tmp_path / "x.onnx", to="onnx")
    read = read_weights(tmp_path / "x.onnx")
    assert read.tensors.keys() == read_weights(run).tensors.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_embed2.proj.weight": torch.ones(9, 8, 2, 2)}, r"its widths \(8, 9, 24\) are none"),
        ({"patch_embed1.proj.weight": torch.ones(8, 3, 7, 7)}, "first kernel of 7 x 7 is none of"),
        ({"patch_embed2.proj.weight": torch.ones(1)}, "cannot be inferred: patch_embed1.proj"),
        ({"pos_embed": torch.ones(1, 7, 24)}, r"pos_embed of \[1, 7, 24\] is not that of a square"),
        ({"more.bias": torch.ones(1)}, r"1 unused \(more\.bias\)"),
    ],
)
def test_a_file_of_another_network_is_explained(
    tmp_path: Path, change: dict[str, Tensor], message: str
) -> None:
    torch.save(fine_tuned(model_of()) | change, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "x.pth")
