"""Depths and widths of one's own: they travel with the weights, and files of others tell them."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor

from fcmae import FCMAE
from fcmae.architecture import Architecture
from fcmae.convnexts import Size
from fcmae.weights.conversion import convert
from fcmae.weights.files import read_weights
from fcmae.weights.inference import infer
from fcmae.weights.loading import load_encoder
from fcmae.weights.metadata import Metadata
from fcmae.weights.official import to_official
from fcmae.weights.options import Target
from fcmae.weights.recognition import canonical
from fcmae.weights.timm_models import as_timm, load_timm
from finetune.models.backbone import backbone
from finetune.models.config import RandomConfig
from tests.support.generators import generator
from tests.support.models import saved_run, timm_features
from tests.support.twins import randomise

OWN = Size((1, 2, 1, 1), (8, 8, 12, 20))  # a stage as wide as the one before, and no multiples


def own_run(folder: Path, name: str) -> FCMAE:
    """A run of a model of this size, and the model."""
    model = FCMAE(
        name=name, image_size=64, depths=OWN.depths, widths=OWN.widths, sparse="reference",
        decoder_dim=16, generator=generator(0),
    )  # fmt: skip
    randomise(model)
    saved_run(folder, model, name=name, stem_stride=4, in_chans=3, own=OWN)
    return model


def assert_same_features(model: FCMAE, other: Any) -> None:
    images = torch.randn(2, 3, 64, 64, generator=generator(1))
    with torch.no_grad():
        ours = model.encoder(images, torch.ones(2, model.n, dtype=torch.bool))
        theirs = timm_features(other, images).flatten(2).mT
    # float32: both sum the same products in another order
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["convnextv2", "convnext", "convnextv2_atto"])
def test_a_model_of_one_s_own_size_goes_everywhere(tmp_path: Path, name: str) -> None:
    model = own_run(tmp_path / "run", name)
    convert(tmp_path / "run", tmp_path / "out.safetensors")
    loaded, metadata = load_timm(tmp_path / "out.safetensors")
    assert (metadata.model, metadata.depths, metadata.widths) == (name, OWN.depths, OWN.widths)
    assert_same_features(model, loaded)
    targets: list[tuple[Target, str]] = [("official", "out.pt"), ("hub", "hub"), ("hf", "hf")]
    for to, file in targets:
        convert(tmp_path / "run", tmp_path / file, to=to)
        found = read_weights(tmp_path / file)
        assert found.metadata == metadata
        assert_same_features(model, as_timm(found.tensors, metadata))
    assert_same_features(model, timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True))
    hf = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
    torch.testing.assert_close(
        hf(torch.ones(1, 3, 64, 64)).last_hidden_state,
        timm_features(loaded, torch.ones(1, 3, 64, 64)),
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_run_starts_from_an_encoder_of_the_same_size_alone(tmp_path: Path) -> None:
    own_run(tmp_path / "run", "convnextv2")
    architecture = Architecture(name="convnextv2_tiny", depths=OWN.depths, widths=OWN.widths)
    fresh = FCMAE(name="convnextv2", image_size=64, depths=OWN.depths, widths=OWN.widths)
    load_encoder(fresh.encoder, tmp_path / "run", architecture)
    with pytest.raises(ValueError, match=r"widths=\(8, 8, 12, 20\), .*change .* model\.widths,"):
        load_encoder(fresh.encoder, tmp_path / "run", Architecture(name="convnextv2_atto"))


def test_the_random_start_has_the_size_of_what_it_is_compared_with(tmp_path: Path) -> None:
    own_run(tmp_path / "run", "convnext")
    model, metadata = backbone("none", RandomConfig(like=str(tmp_path / "run")))
    assert metadata.architecture.size == OWN
    assert model.state_dict()["stages.3.blocks.0.conv_dw.weight"].shape == (20, 1, 7, 7)


def spark(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """SparK's names: the official ones inside of its own model."""
    return {f"sparse_encoder.sp_cnn.{k}": v for k, v in state.items()} | {"imn_m": torch.empty(1)}


def eupe(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of EUPE's ConvNeXts, which are those of DINOv3: norms of all stages."""
    widths = [len(state[f"stages.{i}.0.norm.bias"]) for i in range(4)]
    norms = {
        f"norms.{i}.{leaf}": torch.empty(width)
        for i, width in enumerate(widths[:3])
        for leaf in ("weight", "bias")
    }
    return state | norms


@pytest.mark.parametrize(
    ("size", "name", "own"),
    [
        (Size((3, 3, 27, 3), (96, 192, 384, 768)), "convnext_small", None),
        (Size((3, 3, 27, 3), (256, 512, 1024, 2048)), "convnext_xlarge", None),
        (OWN, "convnext", OWN),
    ],
)
def test_files_of_others_tell_the_size(size: Size, name: str, own: Size | None) -> None:
    wanted = Architecture(name=name, depths=own and own.depths, widths=own and own.widths)
    widths, depths = list(size.widths), list(size.depths)
    with torch.device("meta"):
        net = timm.create_model("convnext_tiny", depths=size.depths, dims=size.widths)
        files = {
            "timm": net.state_dict(),
            "transformers": transformers.ConvNextForImageClassification(
                transformers.ConvNextConfig(hidden_sizes=widths, depths=depths)
            ).state_dict(),
            "DINOv3": transformers.DINOv3ConvNextModel(
                transformers.DINOv3ConvNextConfig(hidden_sizes=widths, depths=depths)
            ).state_dict(),
        }
        metadata = Metadata.of(wanted, mean=(0.5,), std=(0.5,), step=None)
        official = to_official(canonical(files["timm"], wanted), metadata)
        files |= {"official": official, "SparK": spark(official), "EUPE": eupe(official)}
    for file, state in files.items():
        assert infer(state) == wanted, file
        found = canonical(state, wanted)
        assert found["stages.3.downsample.1.weight"].shape == (*size.widths[:1:-1], 2, 2), file


def test_timm_s_largest_one_is_refused_by_what_it_is() -> None:
    with torch.device("meta"):
        state = timm.create_model("convnext_xxlarge", num_classes=0).state_dict()
    with pytest.raises(ValueError, match=r"its norms have another eps \(1e-5, .* --backbone timm:"):
        infer(state)


def test_sizes_of_a_damaged_header_are_refused() -> None:
    metadata = {"model": "convnext", "image_size": [64, 64], "in_chans": 3, "mean": [0.5]}
    metadata |= {"std": [0.5], "stem_stride": 4, "step": None, "depths": [1, 1, 1, 10**9]}
    with pytest.raises(ValueError, match="depths and widths of stages are 1 to 65536"):
        Metadata.of_json(json.dumps(metadata))
