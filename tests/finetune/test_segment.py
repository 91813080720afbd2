"""Segmentation: masks follow their images, the measures are their equations, the program runs."""

import io
import json
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path
from zlib import compress, crc32

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torchmetrics.classification import MulticlassJaccardIndex

from data.dataset import ShardImages
from data.fitting import Fitted
from data.pixel_labels import MASK, MaskedCrop, MaskTarget
from data.shards.reading import open_shards
from data.shards.samples import ShardSamples
from data.shards.writing import write_shards
from data.transforms import Crop
from finetune import segment
from finetune.labels.config import InferenceConfig
from finetune.labels.inference import Inference
from finetune.labels.masks import check_masks
from finetune.labels.pixel_metrics import confusion_of, of_pixels
from finetune.models import segmenter
from finetune.models.config import BackboneConfig, RandomConfig
from finetune.models.layer_decay import parameter_groups
from finetune.models.segmenter import Segmenter
from finetune.training.segmentation import names_of, pixel_loss
from tests.support.images import encoded
from tests.support.models import TINY, TINY_FLAGS
from tests.support.programs import run

WHOLE = Fitted()
TILE = 16  # side of the tiles of `tiles`, pixels
RESNET = BackboneConfig(backbone="timm:resnet18")


def tiles(h: int = 64, w: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red tells the column and green the row, in threes; the mask numbers tiles."""
    rows, columns = np.mgrid[:h, :w]
    image = np.stack([3 * columns, 3 * rows, 0 * rows], -1).astype(np.uint8)
    return image, (5 * (rows // TILE) + columns // TILE).astype(np.uint8)


def squares(i: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright square of one of two colours; classes 0, 1, 2."""
    rng = np.random.default_rng(i)
    image, mask = rng.integers(0, 60, (16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8)
    top, left = rng.integers(0, 8, 2)
    image[top : top + 8, left : left + 8, i % 2] += 180
    mask[top : top + 8, left : left + 8] = 1 + i % 2
    return image, mask


def shard_of(folder: Path, name: str, samples: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    """The path of a shard of these images and masks."""
    members = (
        {
            "__key__": f"{name}{i}",
            "png": encoded(image),
            MASK: encoded(mask),
            "json": {"half": i // 8},
        }
        for i, (image, mask) in enumerate(samples)
    )
    write_shards(members, folder, name, len(samples))
    return str(folder / f"{name}-000000.tar")


def masked(path: str, classes: int, boxes: Crop | Fitted = WHOLE) -> ShardImages:
    return ShardImages(
        ShardSamples(open_shards(path)),
        size=(16, 16),
        in_chans=3,
        seed=5,
        joint_crop=MaskedCrop(boxes),
        target=MaskTarget(classes, (16, 16)),
    )


def test_a_mask_is_cropped_and_flipped_as_its_image(tmp_path: Path) -> None:
    path, crop = shard_of(tmp_path, "train", [tiles()]), Crop((0.3, 1.0), True)
    images = masked(path, 20, crop)
    samples = ShardSamples(open_shards(path))
    plain = ShardImages(samples, size=(16, 16), in_chans=3, seed=5, crop=crop)
    flipped = 0
    for epoch in range(30):
        found = images[(epoch, 0)]
        image, mask = found["image"].int(), found["label"].int()
        assert torch.equal(found["image"], plain[(epoch, 0)]["image"])
        for place, tile in ((image[0], mask % 5), (image[1], mask // 5)):
            # in pixels from the middle of the tile, plus one for the resizing
            assert (place / 3 - (TILE * tile + (TILE - 1) / 2)).abs().max() <= TILE / 2 + 1
        flipped += int(image[0, 8, 0] > image[0, 8, -1])
    assert 5 < flipped < 25


def test_without_boxes_the_centre_is_taken(tmp_path: Path) -> None:
    found = masked(shard_of(tmp_path, "test", [tiles()]), 20)[(0, 0)]
    _, mask = tiles()
    assert torch.equal(found["label"], torch.from_numpy(mask[2::4, 10:-8:4]))


def test_ignored_pixels_are_no_class() -> None:
    mask = np.array([[0, 2], [255, 1]], np.uint8)
    assert MaskTarget(3, (2, 2))({MASK: encoded(mask)}).tolist() == mask.tolist()
    assert MaskTarget(3, (1, 2)).missing.tolist() == [[255, 255]]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, r"no mask: expected a member seg\.png"),
        (np.zeros((16, 12), np.uint8), r"seg\.png has 16 x 12 pixels, its image 16 x 16: they"),
        (np.full((16, 16), 3, np.uint8), r"seg\.png has class 3, beyond the classes 0 to 2"),
        (squares(1)[0], r"seg\.png has colours: store class numbers"),
        (np.full((16, 16), 256, np.uint16), r"seg\.png has class 256: a mask tells classes 0 to"),
    ],
)
def test_a_sample_of_a_wrong_mask_is_broken(
    tmp_path: Path, mask: np.ndarray | None, message: str
) -> None:
    image, _ = squares(0)
    member = {} if mask is None else {MASK: encoded(mask)}
    write_shards([{"__key__": "s0", "png": encoded(image), **member}], tmp_path, "train", 1)
    path = str(tmp_path / "train-000000.tar")
    found = masked(path, 3)[(0, 0)]
    assert found["label"].eq(255).all()
    model, metadata = segmenter.create(BackboneConfig(random=TINY), 3, 32, 0)
    config = InferenceConfig(workers=0)
    inference = Inference(masked(path, 3), metadata, config, Accelerator(cpu=True))
    with pytest.raises(ValueError, match=rf"1 of 1 samples are broken.*: sample 's0': {message}"):
        confusion_of(model, inference, 3)


NUMBERS = np.arange(16, dtype=np.uint8).reshape(4, 4) % 4


def saved(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "png", **options)
    return file.getvalue()


def indexed(**options: object) -> bytes:
    """The numbers as indices of a palette."""
    image = Image.fromarray(NUMBERS, "P")
    image.putpalette([200, 0, 0, 0, 200, 0, 9, 9, 9, 255, 255, 255])
    return saved(image, **options)


def grey(bits: int) -> bytes:
    """The numbers as grey values of so many bits each, which Pillow does not write."""
    rows = b"".join(
        b"\0" + int("".join(f"{n:0{bits}b}" for n in row).ljust(8, "0"), 2).to_bytes(bits // 2)
        for row in NUMBERS.tolist()
    )
    chunks = (b"IHDR", struct.pack(">IIBBBBB", 4, 4, bits, 0, 0, 0, 0)), (b"IDAT", compress(rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc32(name + data))
        for name, data in (*chunks, (b"IEND", b""))
    )


@pytest.mark.parametrize(
    "mask",
    [
        *(
            encoded(NUMBERS),
            encoded(NUMBERS.astype(np.uint16)),
            encoded(np.stack([NUMBERS] * 3, -1)),
        ),
        *(indexed(bits=8), indexed(bits=4), indexed(bits=2), indexed(transparency=0)),
        *(grey(4), grey(2)),
    ],
)
def test_a_mask_in_any_kind_of_png_has_class_numbers(mask: bytes) -> None:
    assert MaskTarget(4, (4, 4))({MASK: mask}).tolist() == NUMBERS.tolist()


def test_a_mask_of_one_bit_has_classes_0_and_1() -> None:
    mask = saved(Image.fromarray(NUMBERS % 2 == 1))
    assert MaskTarget(2, (4, 4))({MASK: mask}).tolist() == (NUMBERS % 2).tolist()


def test_values_stand_for_classes_in_their_order() -> None:
    mask = encoded(np.array([[0, 255], [128, 0]], np.uint8))
    assert MaskTarget(3, (2, 2), (0, 255, 128))({MASK: mask}).tolist() == [[0, 1], [2, 0]]
    assert MaskTarget(2, (2, 2), (128, 0))({MASK: mask}).tolist() == [[1, 255], [0, 1]]
    with pytest.raises(ValueError, match=r"has class 128, beyond the classes 0, 255: correct it"):
        MaskTarget(2, (2, 2), (0, 255))({MASK: mask})


def black_and_white(folder: Path, name: str, seed: int) -> str:
    """A shard of squares that are marked by 255."""
    samples = [squares(seed + i) for i in range(8)]
    return shard_of(
        folder, name, [(image, mask.clip(max=1) * np.uint8(255)) for image, mask in samples]
    )


def look_at(path: str, *values: int, classes: int = 2) -> None:
    target = MaskTarget(classes, (16, 16), values)
    names = ["sky", "road", "sea"][:classes]
    check_masks(
        ShardSamples(open_shards(path)), target, names, InferenceConfig(), Accelerator(cpu=True)
    )


def test_masks_of_0_and_255_are_refused_unless_the_values_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = black_and_white(tmp_path, "train", 0)
    message = r"of class sky alone, and 25\.0% are 255 and ignored.*give --mask_values 0 255"
    with pytest.raises(ValueError, match=message):
        look_at(path)
    look_at(path, 0, 255)
    assert not capsys.readouterr().out


def test_masks_of_one_class_are_refused_and_absent_classes_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, mask = squares(0)
    path = shard_of(tmp_path, "one", [(image, 0 * mask)])
    with pytest.raises(ValueError, match=r"one-000000.tar have pixels of class sky alone: there"):
        look_at(path)
    mask[:8, 0] = 255
    look_at(shard_of(tmp_path, "two", [(image, mask)]), classes=3)
    told = capsys.readouterr().out
    assert told.endswith("two-000000.tar is of class sea, and 3.1% are 255 and ignored\n")


def test_masks_that_do_not_fit_are_found_before_training(tmp_path: Path) -> None:
    image, mask = squares(0)
    path = shard_of(tmp_path, "train", [(image, mask), (image, mask[:, :8])])
    with pytest.raises(ValueError, match=r"1 of 2 samples.*'train1': seg\.png has 16 x 8 pixels"):
        look_at(path, classes=3)


def test_the_loss_is_the_mean_over_pixels_that_are_not_ignored() -> None:
    logits, masks = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4)).byte()
    masks[0, :2] = 255
    kept = masks != 255
    expected = F.cross_entropy(logits.permute(0, 2, 3, 1)[kept], masks[kept].long())
    torch.testing.assert_close(pixel_loss(logits, masks), expected)
    assert pixel_loss(logits, torch.full_like(masks, 255)) == 0


def test_iou_is_found_pixels_over_those_that_are_or_were_taken_for_a_class() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, answers = torch.randint(0, 4, (2, 500), generator=generator)
    matrix = torch.zeros(5, 5, dtype=torch.long)
    for t, a in zip(truth.tolist(), answers.tolist(), strict=True):
        matrix[t, a] += 1
    found = of_pixels(["a", "b", "c", "d", "e"], matrix)
    ious = []
    for k, name in enumerate("abcd"):
        there, answered = truth == k, answers == k
        ious.append(((there & answered).sum() / (there | answered).sum()).item())
        assert found["per_class"][name] == {
            "iou": pytest.approx(ious[-1]),
            "pixels": int(there.sum()),
        }
    assert found["per_class"]["e"] == {"iou": None, "pixels": 0}
    assert found["miou"] == pytest.approx(sum(ious) / 4)
    assert found["miou"] == pytest.approx(MulticlassJaccardIndex(5)(answers, truth).item())
    assert found["pixel_accuracy"] == pytest.approx((truth == answers).float().mean().item())


def test_confusion_is_counted_over_batches_without_ignored_pixels(tmp_path: Path) -> None:
    samples = [squares(i) for i in range(5)]
    samples[1][1][:4] = 255
    path = shard_of(tmp_path, "test", samples)
    images = masked(path, 3)
    model, metadata = segmenter.create(BackboneConfig(random=TINY), 3, 32, 0)
    accelerator = Accelerator(cpu=True)
    found = [
        confusion_of(model, Inference(images, metadata, config, accelerator), 3)
        for config in (InferenceConfig(workers=0), InferenceConfig(workers=0, batch_size=2))
    ]
    assert torch.equal(found[0][0], found[1][0])
    truth = torch.from_numpy(np.stack([mask for _, mask in samples]))
    assert found[0][0].sum(1).tolist() == [int((truth == k).sum()) for k in range(3)]
    assert found[0][1] == 0


@pytest.mark.parametrize("stride", [4, 2, 1])
def test_logits_are_of_the_size_of_the_image_and_every_parameter_learns(stride: int) -> None:
    config = BackboneConfig(random=RandomConfig(image_size=64, stem_stride=stride))
    model, _ = segmenter.create(config, 3, 32, 0)
    logits = model(torch.randn(2, 3, 32 * stride, 24 * stride))
    assert logits.shape == (2, 3, 32 * stride, 24 * stride)
    logits.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []  # DDP would wait


def test_other_convnets_of_timm_and_odd_sizes_do_too() -> None:
    model, _ = segmenter.create(RESNET, 5, 32, 0)
    assert model(torch.randn(2, 3, 70, 53)).shape == (2, 5, 70, 53)


def test_the_head_starts_as_the_seed_says() -> None:
    first, again, other = (segmenter.create(RESNET, 5, 32, seed)[0].head for seed in (0, 0, 1))
    pairs = zip(first.parameters(), again.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not torch.equal(first.classify.weight, other.classify.weight)


@pytest.mark.parametrize("by", ["layer", "group"])
def test_the_head_is_the_last_layer_of_the_learning_rates_decay(by) -> None:
    model, _ = segmenter.create(BackboneConfig(random=TINY), 3, 32, 0)
    scale = {
        id(parameter): group["scale"]
        for group in parameter_groups(model, 0.05, 0.5, by)
        for parameter in group["params"]
    }
    of = {name: scale[id(parameter)] for name, parameter in model.named_parameters()}
    assert {of[name] for name in of if name.startswith("head.")} == {1.0}
    assert of["backbone.stages.3.blocks.1.conv_dw.weight"] == 0.5
    assert of["backbone.stem.0.weight"] == min(of.values())


def test_what_was_saved_answers_as_before(tmp_path: Path) -> None:
    model, metadata = segmenter.create(BackboneConfig(random=TINY), 3, 32, 0)
    segmenter.save(tmp_path / "weights.safetensors", model, metadata, ["a", "b", "c"])
    loaded, told, names = segmenter.load(tmp_path / "weights.safetensors")
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded.eval()(x), model.eval()(x))
    assert (told, names) == (metadata, ("a", "b", "c"))


def test_models_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="backbone Identity does not give the 4 feature maps that"):
        Segmenter(torch.nn.Identity(), 3, 32)
    with pytest.raises(ValueError, match="head_width=48 must be a multiple of 32"):
        segmenter.create(BackboneConfig(random=TINY), 3, 48, 0)
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors: no ConvNeXt: neither the stem"):
        segmenter.create(BackboneConfig(weights=str(tmp_path / "other.safetensors")), 3, 32, 0)
    _, metadata = segmenter.create(BackboneConfig(random=TINY), 3, 32, 0)
    segmenter.save_timm(tmp_path / "plain.safetensors", {}, metadata)
    with pytest.raises(ValueError, match=r"plain\.safetensors has no segmentation head; make it"):
        segmenter.load(tmp_path / "plain.safetensors")


@pytest.mark.parametrize(
    ("named", "classes", "message"),
    [
        ([], None, r"no classes\.json beside the training shards: give --classes"),
        (["a", "b"], 3, r"classes=3, but classes\.json names 2: leave --classes out"),
        ([], 256, "there are 256 classes: a mask tells 2 to 255 apart"),
    ],
)
def test_classes_that_are_not_known_are_refused(
    named: list[str], classes: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        names_of(named, classes)
    assert names_of([], 2) == names_of([], None, (0, 255)) == ["0", "1"]
    for values, message in (
        ((0, 0), "mask_values=0 0 must be different"),
        ((7, 8, 9), "has 3 val"),
    ):
        with pytest.raises(ValueError, match=message):
            names_of(["a", "b"], None, values)
    assert names_of(["a", "b"], 2) == ["a", "b"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--augment.rand_augment", "rand-m9"], "rand_augment=rand-m9 would move pixels away from"),
        (["--augment.cutmix", "1.0"], "cutmix=1.0 mix classes, which this task has not: give 0"),
        (["--out", "result.txt"], r"out=result\.txt must end in \.json"),
    ],
)
def test_flags_that_do_not_go_with_masks_are_refused(flags: list[str], message: str) -> None:
    start = ["--data.train", "a.tar", "--data.test", "b.tar", "--out", "result.json"]
    with pytest.raises(ValueError, match=message):
        segment.main([*start, *flags])


def result_of(folder: Path, *flags: str, world: int = 1) -> dict:
    """Run the program on squares to the end, and read its result."""
    train, test = folder / "train-000000.tar", folder / "test-000000.tar"
    if not train.exists():
        shard_of(folder, "train", [squares(i) for i in range(16)])
        shard_of(folder, "test", [squares(i) for i in range(100, 107)])
    command = [
        *("-m", "finetune.segment", "--out", str(folder / "out.json")),
        *("--data.train", str(train), "--data.test", str(test), "--data.workers", "0"),
        *(*TINY_FLAGS, "--head_width", "32", "--classes", "3"),
        *("--optim.batch_size", "8", "--optim.steps", "12", "--optim.base_lr", "0.05"),
        *("--run.save_every", "6", "--run.log_every", "6", "--augment.scale", "0.8", "1.0"),
    ]
    done = run(*command, *flags, world=world)
    assert done.returncode == 0, done.stderr
    assert "miou" in done.stdout
    weights = folder / "out" / "weights.safetensors"
    assert done.stdout.endswith(f"next: fcmae predict IMAGES --weights {weights} --masks MASKS\n")
    return json.loads((folder / "out.json").read_text())


def test_a_shard_that_is_learned_from_is_not_tested_on(tmp_path: Path) -> None:
    train = shard_of(tmp_path, "train", [squares(i) for i in range(4)])
    flags = ["--data.train", train, "--data.test", train, "--out", str(tmp_path / "out.json")]
    with pytest.raises(ValueError, match=r"which is the same shard, is learned from: an answer"):
        segment.main([*flags, *TINY_FLAGS, "--head_width", "32", "--classes", "3"])
    both = black_and_white(tmp_path, "both", 0)
    with pytest.raises(ValueError, match=r"alone, and 25.0% are 255 and ignored"):
        segment.main([*flags, *TINY_FLAGS, "--classes", "2", "--data.train", both])


def test_a_run_learns_and_reports(tmp_path: Path) -> None:
    result = result_of(tmp_path)
    assert result["miou"] > 0.3  # 0.25 is the background alone
    assert list(result["per_class"]) == ["0", "1", "2"]
    assert sum(row["pixels"] for row in result["per_class"].values()) == 7 * 16 * 16
    (matrix,) = result["confusion"]
    for name, row in result["per_class"].items():
        assert sum(matrix[name].values()) == row["pixels"]
        union = row["pixels"] + sum(r.get(name, 0) for r in matrix.values()) - matrix[name][name]
        assert matrix[name][name] / union == pytest.approx(row["iou"])
    assert (result["train_samples"], result["test_samples"]) == (16, 7)
    with Image.open(tmp_path / "out" / "samples.png") as picture:
        assert picture.size == (592, 316)  # at least 512 pixels wide, with labels


@pytest.mark.slow
def test_a_run_that_lost_its_last_checkpoint_ends_as_it_did(tmp_path: Path) -> None:
    result = result_of(tmp_path)
    whole = load_file(tmp_path / "out" / "weights.safetensors")
    shutil.rmtree(tmp_path / "out" / "step_0000012")
    assert result_of(tmp_path) == result
    resumed = load_file(tmp_path / "out" / "weights.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_held_out_training_data_is_reported_on_by_groups(tmp_path: Path) -> None:
    result = result_of(
        *(tmp_path, "--report_on", "held_out", "--data.test", "--data.group", "half"),
        *("--data.held_out", "0.5", "--optim.steps", "2"),
    )
    assert (result["train_samples"], result["held_out_samples"]) == (8, 8)


@pytest.mark.dist
@pytest.mark.slow
def test_two_processes_count_every_pixel_once(tmp_path: Path) -> None:
    result = result_of(tmp_path, "--optim.steps", "2", world=2)
    assert sum(row["pixels"] for row in result["per_class"].values()) == 7 * 16 * 16
