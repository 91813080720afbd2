"""Converted weights are timm's: equal features, complete tables, metadata in the header."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from fcmae import FCMAE, convnexts
from fcmae.run import checkpoint
from fcmae.weights.checkpoints import find_checkpoint
from fcmae.weights.conversion import convert
from fcmae.weights.metadata import Metadata
from fcmae.weights.recognition import canonical
from fcmae.weights.safetensors_files import read_metadata
from fcmae.weights.timm_models import load_timm, save_timm, shapes_in_timm, to_timm
from tests.support.models import metadata_of, saved_run, timm_features, trained
from tests.support.programs import run


@pytest.mark.parametrize(
    ("name", "stem_stride", "in_chans"),
    [
        ("convnextv2_atto", 4, 3),
        ("convnextv2_atto", 2, 13),
        ("convnextv2_atto", 1, 1),
        # timm's larger models hold linear layers, the smaller 1x1s
        pytest.param("convnextv2_tiny", 4, 3, marks=pytest.mark.slow),
        ("convnext_atto", 4, 3),
        ("convnext_atto", 2, 3),
    ],
)
def test_timm_computes_the_features_of_the_encoder(
    tmp_path: Path, name: str, stem_stride: int, in_chans: int
) -> None:
    model = trained(name, stem_stride, in_chans)
    saved_run(tmp_path / "run", model, name=name, stem_stride=stem_stride, in_chans=in_chans)
    out = tmp_path / "out.safetensors"
    convert(tmp_path / "run", out)
    images = torch.randn(2, in_chans, *model.image_size)
    with torch.no_grad():
        ours = model.encoder(images, torch.ones(2, model.n, dtype=torch.bool))
        theirs = timm_features(load_timm(out)[0], images)
    # float32: both sum the same products in another order
    torch.testing.assert_close(ours, theirs.flatten(2).mT, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("stem_stride", "options"), [(4, {}), (1, {"patch_size": 1})])
def test_plain_timm_loads_the_file(
    tmp_path: Path, stem_stride: int, options: dict[str, Any]
) -> None:
    name = "convnextv2_atto"
    model = trained(name, stem_stride, 3)
    metadata = metadata_of(model, name, stem_stride, 3)
    out = tmp_path / "out.safetensors"
    save_timm(out, to_timm(model.encoder.state_dict(), metadata), metadata)
    plain = timm.create_model(name, num_classes=0, checkpoint_path=str(out), **options)
    images = torch.randn(1, 3, *model.image_size)
    with torch.no_grad():
        torch.testing.assert_close(
            timm_features(plain, images),
            timm_features(load_timm(out)[0], images),
            rtol=0.0,
            atol=0.0,
        )


@pytest.mark.slow
def test_every_size_of_both_families_converts() -> None:
    for name in convnexts.NAMES:
        with torch.device("meta"):
            model = FCMAE(name=name, image_size=64)
            metadata = metadata_of(model, name, 4, 3)
        converted = to_timm(model.encoder.state_dict(), metadata)
        assert {k: v.shape for k, v in converted.items()} == shapes_in_timm(metadata, 0)


def test_the_header_tells_what_a_user_must_know(tmp_path: Path) -> None:
    model = trained("convnextv2_atto", 2, 4)
    saved_run(tmp_path, model, name="convnextv2_atto", stem_stride=2, in_chans=4)
    convert(tmp_path, tmp_path / "new" / "out.safetensors")
    assert read_metadata(tmp_path / "new" / "out.safetensors") == Metadata(
        model="convnextv2_atto",
        image_size=(32, 48),
        in_chans=4,
        mean=(0.5,),
        std=(0.25,),
        stem_stride=2,
        step=7,
    )


def test_a_classifier_starts_fresh_and_the_rest_is_loaded(tmp_path: Path) -> None:
    model = trained("convnextv2_atto", 1, 3)
    metadata = metadata_of(model, "convnextv2_atto", 1, 3)
    tensors = to_timm(model.encoder.state_dict(), metadata)
    save_timm(tmp_path / "out.safetensors", tensors, metadata)
    state = load_timm(tmp_path / "out.safetensors", num_classes=5)[0].state_dict()
    assert state.keys() - tensors.keys() == {"head.fc.weight", "head.fc.bias"}
    assert all(torch.equal(state[key], tensors[key]) for key in tensors)


def test_a_source_is_a_run_a_step_or_the_file_in_it(tmp_path: Path) -> None:
    model = trained("convnextv2_atto", 1, 3)
    step = saved_run(tmp_path, model, name="convnextv2_atto", stem_stride=1, in_chans=3)
    assert {find_checkpoint(p) for p in (tmp_path, step, step / checkpoint.MODEL)} == {step}
    with pytest.raises(FileNotFoundError, match="nowhere holds no checkpoint; give a run"):
        find_checkpoint(tmp_path / "nowhere")


def test_tensors_that_do_not_fit_are_named() -> None:
    model = trained("convnextv2_atto", 1, 3)
    architecture = metadata_of(model, "convnextv2_atto", 1, 3).architecture
    state = model.state_dict()
    state["encoder.extra"] = torch.zeros(1)
    del state["encoder.stem.0.bias"]
    wrong = (
        r"^the weights are not those of convnextv2_atto with stem_stride=1 and in_chans=3:"
        r" 1 missing \(encoder\.stem\.0\.bias\); 1 unused \(encoder\.extra\); 0 of another shape$"
    )
    with pytest.raises(ValueError, match=wrong):
        canonical(state, architecture)
    wrong_channels = metadata_of(model, "convnextv2_atto", 1, 4).architecture
    with pytest.raises(ValueError, match=r"in_chans=4: .* 1 of another shape \(encoder\.stem\.0"):
        canonical(model.state_dict(), wrong_channels)


def test_a_damaged_checkpoint_is_said_to_be(tmp_path: Path) -> None:
    model = trained("convnextv2_atto", 1, 3)
    step = saved_run(tmp_path, model, name="convnextv2_atto", stem_stride=1, in_chans=3)
    (step / checkpoint.MODEL).write_bytes(b"short")
    with pytest.raises(ValueError, match="step_0000007 is damaged"):
        convert(tmp_path, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_weights_that_tell_nothing_of_their_images_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(ValueError, match=r"foreign\.safetensors: no ConvNeXt: neither the stem"):
        load_timm(foreign)
    save_file(timm.create_model("convnextv2_atto").state_dict(), foreign)
    with pytest.raises(ValueError, match=r"foreign\.safetensors does not tell the image size, mea"):
        load_timm(foreign)
    with pytest.raises(FileNotFoundError, match=r"missing\.safetensors holds no checkpoint; give"):
        load_timm(tmp_path / "missing.safetensors")


def test_a_source_is_never_written_over(tmp_path: Path) -> None:
    source = tmp_path / "mine.pth"
    torch.save({"model": timm.create_model("convnextv2_atto").state_dict(), "epoch": 3}, source)
    before = source.read_bytes()
    linked = tmp_path / "linked.pth"
    linked.symlink_to(source)
    for out in (source, linked):
        with pytest.raises(ValueError, match=r"is what is converted: give the result another name"):
            convert(source, out, to="official")
    assert source.read_bytes() == before


def test_the_command_converts(tmp_path: Path) -> None:
    model = trained("convnextv2_atto", 1, 3)
    saved_run(tmp_path, model, name="convnextv2_atto", stem_stride=1, in_chans=3)
    out = tmp_path / "out.safetensors"
    done = run("-m", "fcmae.convert", tmp_path, "--to", "timm", out)
    assert done.returncode == 0, done.stderr
    assert "timm convnextv2_atto, step 7" in done.stdout
    assert load_file(out)["stem.0.weight"].shape == (40, 3, 1, 1)
