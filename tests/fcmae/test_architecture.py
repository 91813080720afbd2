"""Names, sizes, patches and checks, which every encoder, plan and exporter asks for."""

import subprocess
import sys
from dataclasses import fields, replace

import pytest

from fcmae import FCMAE, convnexts
from fcmae.architecture import Architecture
from fcmae.convnexts import SIZES, Size
from fcmae.encoder import Encoder
from fcmae.model_config import ModelConfig
from fcmae.patches import sides_of, visible_count
from fcmae.run.config import to_yaml
from tests.support.models import plain_of
from tests.support.programs import ROOT


def test_every_size_of_both_families_has_a_name() -> None:
    assert len(convnexts.NAMES) == 2 * len(SIZES)
    for name in convnexts.NAMES:
        architecture = Architecture(name=name)
        architecture.check()
        assert f"{architecture.family}_" in name
        assert architecture.has_grn == name.startswith("convnextv2_")
        widths = architecture.size.widths
        assert widths == tuple(widths[0] * 2**i for i in range(4))
        assert architecture.dim == widths[3]
        assert architecture.size == SIZES[name.removeprefix(f"{architecture.family}_")]


def test_sizes_are_those_of_the_paper() -> None:
    atto, huge = Architecture(name="convnextv2_atto"), Architecture(name="convnext_huge")
    assert (atto.size.depths, atto.size.widths) == ((2, 2, 6, 2), (40, 80, 160, 320))
    assert (huge.size.depths, huge.size.widths) == ((3, 3, 27, 3), (352, 704, 1408, 2816))


@pytest.mark.parametrize("family", ["convnextv2", "convnext"])
def test_depths_and_widths_are_one_s_own_or_those_of_the_size(family: str) -> None:
    own = Architecture(name=family, depths=(1, 2, 1, 1), widths=(8, 8, 12, 20))
    own.check()
    assert (own.family, own.dim) == (family, 20)
    assert str(own) == (
        f"{family} with depths=(1, 2, 1, 1), widths=(8, 8, 12, 20), stem_stride=4 and in_chans=3"
    )
    shallow = Architecture(name=f"{family}_tiny", depths=(1, 1, 1, 1))
    assert shallow.size == Size((1, 1, 1, 1), SIZES["tiny"].widths)
    assert not shallow.same_tensors(replace(shallow, depths=None))
    spelled = Architecture(name=family, depths=(3, 3, 9, 3), widths=(96, 192, 384, 768))
    assert spelled.same_tensors(Architecture(name=f"{family}_tiny"))


@pytest.mark.parametrize(("stem_stride", "patch_size"), [(4, 32), (2, 16), (1, 8)])
def test_a_patch_is_the_total_stride_of_the_encoder(stem_stride: int, patch_size: int) -> None:
    size = (2 * patch_size, 3 * patch_size)
    architecture = Architecture(image_size=size, stem_stride=stem_stride)
    assert architecture.patch_size == patch_size == Encoder(architecture).patch_size
    assert architecture.grid == (2, 3)
    assert architecture.patches == 6


def test_an_image_size_is_one_side_or_both() -> None:
    assert Architecture(image_size=64).sides == (64, 64)
    assert Architecture(image_size=(64, 96)).sides == (64, 96)
    assert sides_of([64, 96]) == (64, 96)  # as YAML holds it


def test_weights_fit_whatever_the_image_size() -> None:
    architecture = Architecture()
    assert architecture.same_tensors(replace(architecture, image_size=64))
    assert architecture.same_tensors(ModelConfig(ratio=0.5, decoder_dim=32))
    for other in (
        replace(architecture, name="convnext_atto"),
        replace(architecture, in_chans=1),
        replace(architecture, stem_stride=2),
    ):
        assert not architecture.same_tensors(other)
    assert str(architecture) == "convnextv2_atto with stem_stride=4 and in_chans=3"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet50"}, "model name='resnet50' is none of convnextv2_atto, "),
        ({"name": "convnext_small_2"}, "model name='convnext_small_2' is none of "),
        ({"stem_stride": 3}, r"stem_stride=3 must be 4, 2 or 1 \(patches of 32, 16, 8\)"),
        ({"in_chans": 0}, "in_chans=0 must be at least 1"),
        ({"name": "convnext"}, "model name='convnext' has no size: take convnext_atto or a larger"),
        (
            {"name": "convnext", "widths": (8, 8, 8, 8)},
            "model name='convnext' has no size: .* both",
        ),
        ({"widths": (8, 16, 0, 64)}, r"widths=\(8, 16, 0, 64\) must be at least 1 in each of the"),
        (
            {"name": "timm:resnet18", "depths": (1, 1, 1, 1)},
            r"depths=\(1, 1, 1, 1\) is for convnextv2 and convnext: timm:resnet18 has its own",
        ),
        ({"image_size": 200}, "image_size=200 must be a multiple of patch_size=32; try 192 or 224"),
        ({"image_size": (64, 16)}, "image_size=16 must be a multiple of patch_size=32; try 32"),
        ({"ratio": 1.0}, r"ratio=1.0 must lie in \[0, 1\)"),
        ({"ratio": 0.99}, "ratio=0.99 leaves none of 49 patches visible; lower it to at most 0.97"),
        ({"ratio": 0.0}, "ratio=0.0 hides none of 49 patches, so there is nothing to predict;"),
        ({"decoder_dim": 0}, "decoder_dim=0 must be at least 1"),
        ({"decoder_depth": -1}, "decoder_depth=-1 must be at least 0"),
    ],
)
def test_what_is_out_of_range_is_named_by_the_config_and_the_model(
    options: dict, message: str
) -> None:
    config = ModelConfig(**options)  # holding a value is no error: parsers report it in their way
    with pytest.raises(ValueError, match=f"^{message}"):
        config.check()
    with pytest.raises(ValueError, match=f"^{message}"):
        FCMAE(**options)


def test_an_encoder_takes_images_of_any_number_of_patches() -> None:
    Encoder(Architecture(image_size=100, stem_stride=1))  # what its tensors do not depend on


def test_a_model_of_a_config_has_its_numbers() -> None:
    config = ModelConfig(image_size=(64, 96), stem_stride=2, in_chans=2, decoder_dim=16)
    model = FCMAE.from_config(config)
    assert model.image_size == config.sides == (64, 96)
    assert model.grid == config.grid == (4, 6)
    assert model.n == config.patches == 24
    assert model.v == config.visible_patches == visible_count(24, 0.6) == 9
    assert model.encoder.dim == config.dim
    assert plain_of(model.decoder).predict.out_features == 16 * 16 * 2


def test_a_recipe_lists_the_encoder_before_what_is_hidden_from_it() -> None:
    assert [field.name for field in fields(ModelConfig)] == [
        *("name", "image_size", "in_chans", "stem_stride", "depths", "widths"),
        *("ratio", "sparse", "decoder", "decoder_dim", "decoder_depth", "contrast"),
    ]
    assert to_yaml(ModelConfig(image_size=(32, 64))).splitlines()[:4] == [
        "name: convnextv2_atto",
        "image_size:",
        "- 32",
        "- 64",
    ]


def test_architectures_need_no_torch() -> None:
    code = "import sys, fcmae.model_config, fcmae.convert; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
