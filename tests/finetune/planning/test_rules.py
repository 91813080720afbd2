"""The rules of a planned recipe, for images of several kinds and machines of several speeds."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from data.shards.depth import Depth
from fcmae.model_config import ModelConfig
from fcmae.run.config import parse
from fcmae.run.options import Precision
from finetune.planning.facts import ImageFacts
from finetune.planning.machine import Machine as ThisMachine
from finetune.planning.recipe import recipe_text
from finetune.planning.rules import choices
from finetune.training.pretraining import PretrainConfig

# images/s of atto at 224 px, in fp32 and bf16
LAPTOP = (40.0, 42.0)
XEON = (60.0, 105.0)  # bf16 products in hardware
GPU = (9000.0, 17900.0)
SIZES = ("atto", "femto", "pico", "nano", "tiny", "base")


@dataclass
class Machine:
    """A machine on which a step costs in proportion to the pixels and the size of the model."""

    speed: tuple[float, float] = LAPTOP
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    cores: int = 8

    def seconds_per_image(self, config: ModelConfig, precision: Precision) -> float:
        size = 1.5 ** SIZES.index(config.name.removeprefix("convnextv2_"))
        height, width = config.sides
        area = height * width / 224**2 * (4 / config.stem_stride) ** 2
        return size * area / self.speed[precision == "bf16"]

    def share_of_peak(self, config: ModelConfig, precision: Precision, seconds: float) -> float:
        return 0.23


def facts(count: int, short: int, long: int = 0, channels: int = 3, **others: object) -> ImageFacts:
    values: dict[str, object] = {
        "depth": None,
        "nodata": None,
        "range": None,
        "mean": (0.5,) * channels,
        "std": (0.2,) * channels,
        "decode_s": 0.002,
        "indexed": False,
        "unlike": 0,
    }
    return ImageFacts(
        count=count,
        short_side=short,
        long_side=long or short,
        channels=channels,
        **(values | others),  # type: ignore[arg-type]
    )


def planned(
    of: ImageFacts, tmp_path: Path, *, hours: float = 4.0, machine: Machine | None = None
) -> PretrainConfig:
    """What pretrain.py makes of the recipe."""
    chosen = choices(of, machine or Machine(), hours=hours)
    recipe = tmp_path / "planned.yaml"
    recipe.write_text(recipe_text(chosen, ["A recipe."]))
    flags = ["--data.train", "x.tar", "--run.dir", "runs/x"]
    config = parse(PretrainConfig, [str(recipe), *flags], description="")
    config.model.check()
    return config


@pytest.mark.parametrize(
    ("short", "stride", "side"),
    [
        (12, 1, 16),
        (32, 1, 32),
        (63, 1, 56),
        (64, 2, 64),
        (100, 2, 96),
        (128, 4, 128),
        (500, 4, 224),
    ],
)
def test_patches_and_sizes_follow_the_shorter_side(
    short: int, stride: int, side: int, tmp_path: Path
) -> None:
    model = planned(facts(1000, short), tmp_path, machine=Machine(GPU)).model
    assert (model.stem_stride, model.image_size) == (stride, side)


def test_icons_of_32_px(tmp_path: Path) -> None:
    config = planned(facts(20_000, 32), tmp_path)
    assert config.model.patch_size == 8
    assert config.data.scale == (0.2, 1.0)
    assert config.optim.base_lr * config.optim.batch_size / 256 == pytest.approx(2e-3)


def test_long_scans_are_cropped_at_their_own_scale(tmp_path: Path) -> None:
    config = planned(facts(3000, 200, 3000), tmp_path)
    assert config.model.sides[0] <= 192
    assert config.data.scale[0] == pytest.approx(config.model.sides[0] ** 2 / 6e5, rel=0.05)


def test_tiles_of_13_bands_in_16_bits(tmp_path: Path) -> None:
    depth = Depth(("uint16",), 0.0, 9000.0, (10.0, 4000.0))
    of = facts(50_000, 264, channels=13, depth=depth, range=(10.0, 4000.0))
    config = planned(of, tmp_path)
    assert (config.model.in_chans, config.data.pixels) == (13, "float32")
    assert config.data.range == (10.0, 4000.0)
    assert len(config.data.mean) == len(config.data.std) == 13


def test_nodata_of_maps(tmp_path: Path) -> None:
    depth = Depth(("float32",), -9999.0, 3000.0, (0.0, 2500.0))
    of = facts(500, 256, channels=1, depth=depth, nodata=-9999.0, range=(0.0, 2500.0))
    assert planned(of, tmp_path).data.nodata == -9999.0


def test_forty_images_make_a_short_run_of_the_smallest_model(tmp_path: Path) -> None:
    config = planned(facts(40, 300), tmp_path, hours=48.0)
    assert config.model.name == "convnextv2_atto"
    assert (config.optim.epochs, config.optim.batch_size) == (1600, 32)


def test_a_million_images_on_a_gpu_make_a_larger_model_in_large_batches(tmp_path: Path) -> None:
    machine = Machine(GPU, torch.device("cuda"))
    config = planned(facts(1_000_000, 400), tmp_path, hours=100.0, machine=machine)
    assert config.model.name not in ("convnextv2_atto", "convnextv2_femto")
    assert config.optim.batch_size == 1024
    assert config.precision == "bf16"


def test_a_million_images_on_a_laptop_are_shrunk(tmp_path: Path) -> None:
    config = planned(facts(1_000_000, 400), tmp_path)
    assert (config.model.name, config.model.image_size) == ("convnextv2_atto", 128)
    assert config.optim.epochs < 4


@pytest.mark.parametrize(("speed", "precision"), [(LAPTOP, "fp32"), (XEON, "bf16")])
def test_bf16_is_taken_where_it_is_faster(
    speed: tuple[float, float], precision: str, tmp_path: Path
) -> None:
    config = planned(facts(5000, 224), tmp_path, machine=Machine(speed))
    assert config.precision == precision


@pytest.mark.parametrize("hours", [0.02, 1.0, 20.0])
def test_the_hours_are_kept(hours: float, tmp_path: Path) -> None:
    of, machine = facts(20_000, 256), Machine()
    config = planned(of, tmp_path, hours=hours, machine=machine)
    assert config.precision != "auto"
    seconds = machine.seconds_per_image(config.model, config.precision)
    assert config.optim.epochs * of.count * seconds <= 1.01 * 3600 * hours


def test_every_value_has_a_reason() -> None:
    of = facts(
        20_000, 256, depth=Depth(("uint16",), 0.0, 4000.0, (0.0, 4000.0)), range=(0.0, 4095.0)
    )
    text = recipe_text(choices(of, Machine(), hours=1.0), ["First line.", ""])
    first, _, *lines = text.splitlines()
    assert first == "# First line."
    values = [line for line in lines if not line.rstrip().endswith(":")]
    assert values
    assert all("  # " in line and len(line.rpartition("  # ")[2]) > 5 for line in values)


def test_public_weights_are_named_where_they_fit_and_left_to_the_user() -> None:
    texts = [recipe_text(choices(facts(900, s), Machine(), hours=1.0), []) for s in (300, 32)]
    assert "# init:\n#   weights: timm:convnextv2_atto.fcmae" in texts[0]
    assert "timm:" not in texts[1]


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan"), float("inf")])
def test_hours_are_above_nothing(hours: float) -> None:
    with pytest.raises(ValueError, match="--hours"):
        list(choices(facts(40, 300), Machine(), hours=hours))


def why(field: str, of: ImageFacts, machine: Machine) -> str:
    return next(c.why for c in choices(of, machine, hours=4.0) if c.field == field)


@pytest.mark.parametrize(
    ("speed", "decode_s", "told"),
    [
        (LAPTOP, 0.002, "0.1 of 8 cores feed the device, and the device holds the run"),
        (GPU, 0.002, "35.8 of 8 cores feed the device, and the loader holds the run; fcmae shards"),
    ],
)
def test_a_plan_says_how_many_cores_feed_the_device_and_what_holds_the_run(
    speed: tuple[float, float], decode_s: float, told: str
) -> None:
    of = facts(1000, 224, decode_s=decode_s)
    assert told.split(";")[0] in why("data.workers", of, Machine(speed))
    assert ("fcmae shards make" in why("data.workers", of, Machine(speed))) == (speed is GPU)
    assert "23% of a large product's speed" in why("model.name", of, Machine(speed))


def test_this_machine_reaches_a_share_of_a_large_product() -> None:
    model = ModelConfig(name="convnextv2_atto", image_size=32, stem_stride=1, decoder_dim=64)
    machine = ThisMachine()
    shares = [machine.share_of_peak(model, "fp32", seconds) for seconds in (0.01, 0.02)]
    assert shares[0] > shares[1] > 0
    assert str(machine) == f"cpu with {machine.cores} cores"
