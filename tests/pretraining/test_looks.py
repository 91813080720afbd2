"""Looks of a run at the same images: what its directory has of them, and that they only look."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fcmae
from data.config import DataConfig
from data.order import Order
from data.shards.reading import open_shards
from data.shards.writing import write_shards
from fcmae.masking import patchify
from fcmae.run.metrics import read_metrics
from fcmae.spectrum import rankme
from fcmae.weights.safetensors_files import read_safetensors
from finetune.training.looks import affordable, look_steps
from finetune.training.pretraining import WatchConfig
from finetune.training.watched_images import WatchedImages, class_of, read_watched
from tests.support.images import encoded
from tests.support.programs import ROOT
from tests.support.runs import assert_same_bits, newest, pretrain

pytestmark = pytest.mark.slow

CHANGES = {
    "data.train": str(ROOT / "data/demo/train-000000.tar.gz"),
    "data.workers": 0,
    "model.decoder_dim": 32,
    "optim": {"steps": 4, "batch_size": 4},
    "run": {"log_every": 1, "save_every": 2, "picture_every": 0},
    "watch": {"images": 10},
}
FILES = ["images.safetensors", "step_0000000.safetensors", "step_0000004.safetensors"]


def train(run: Path, **changes: object) -> Path:
    """A short run in this process, with changes to its config, whose names have __ for dots."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return fcmae.pretrain("demo", {**CHANGES, **named, "run.dir": run}).directory


def look(run: Path, step: int) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """The tensors and the header of a look."""
    tensors, header = read_safetensors(run / f"watched/step_{step:07d}.safetensors")
    return tensors, {name: json.loads(value) for name, value in header.items()}


def listed(run: Path) -> list[str]:
    """The names of the files that the run has of what it watches."""
    return sorted(path.name for path in (run / "watched").iterdir())


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("looks") / "run")


def test_looking_changes_no_number(watched: Path, tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", watch={"images": 0})
    assert_same_bits(watched, plain)
    assert not (plain / "watched").exists()
    assert all("rankme" not in line for line in read_metrics(plain))


def test_a_look_shows_the_same_images_under_the_same_masks(watched: Path) -> None:
    assert listed(watched) == FILES
    images = WatchedImages.load(watched / "watched/images.safetensors")
    assert images.shown.shape == (8, 3, 32, 32)  # of ten: a short run keeps fewer
    (before, first), (after, last) = look(watched, 0), look(watched, 4)
    assert first["step"] == 0
    assert (last["step"], last["samples_seen"], last["strides"]) == (4, 16, [1, 2, 4, 8])
    assert before.keys() == after.keys()
    assert torch.equal(before["visible"], after["visible"])
    assert not torch.equal(before["prediction"], after["prediction"])
    assert not torch.equal(before["features"], after["features"])
    patches = [
        patchify(views.float(), 8).flatten(2)
        for views in (images.shown, after["visible"], after["prediction"], after["pasted"])
    ]
    seen = (patches[0] == patches[1]).all(2)
    assert seen.sum(1).tolist() == [6] * 8  # int(16 x 0.4)
    assert torch.equal(patches[3][seen], patches[0][seen])
    assert torch.equal(patches[3][~seen], patches[2][~seen])


def test_a_look_has_the_features_of_whole_images_and_what_excites_channels(watched: Path) -> None:
    images = WatchedImages.load(watched / "watched/images.safetensors")
    tensors, header = look(watched, 4)
    expected = fcmae.features(watched, list(images.shown.permute(0, 2, 3, 1).numpy()))
    torch.testing.assert_close(tensors["features"], expected.half(), rtol=1e-2, atol=1e-3)
    line = read_metrics(watched)[-1]
    assert line["rankme"] == header["rankme"] == pytest.approx(rankme(expected), rel=1e-3)
    assert line["alpha_req"] == header["alpha_req"]
    assert line["alpha_req"] > 0
    assert [line["step"] for line in read_metrics(watched) if "rankme" in line] == [4]
    for stage, side in enumerate((32, 16, 8, 4), 1):
        assert tensors[f"stage{stage}.values"].shape == (8, 8)  # channels, all images
        assert tensors[f"stage{stage}.rows"].max() < side
        assert tensors[f"stage{stage}.columns"].max() < side
    assert tensors["grn11.response"].mean() == pytest.approx(1, abs=1e-3)  # eq. 2


def test_a_killed_run_makes_again_what_it_lacks_and_nothing_twice(
    watched: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(watched, tmp_path / "run")
    shutil.rmtree(newest(run))
    kept = {path: path.stat().st_ino for path in (run / "watched").iterdir()}
    first, begun, later = sorted(kept)
    first.write_bytes(first.read_bytes()[:-9])
    later.write_bytes(b"")
    (run / "watched/.images.safetensors.ab.tmp").mkdir()
    train(run)
    assert listed(run) == FILES
    for name in FILES:
        ours, theirs = (load_file(folder / "watched" / name) for folder in (run, watched))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert begun.stat().st_ino == kept[begun]
    again, whole = ([line.get("rankme") for line in read_metrics(r)] for r in (run, watched))
    assert again == whole


def test_a_run_keeps_its_images_whatever_the_flag_says_later(watched: Path, tmp_path: Path) -> None:
    run = shutil.copytree(watched, tmp_path / "run")
    train(run, optim={"steps": 400, "batch_size": 4, "base_lr": 0.0}, dry_run=True)
    before = (run / "watched/images.safetensors").read_bytes()
    train(run, optim={"steps": 6, "batch_size": 4}, watch={"images": 9})
    assert (run / "watched/images.safetensors").read_bytes() == before
    assert listed(run) == [*FILES, "step_0000006.safetensors"]


def test_what_cannot_be_written_costs_a_line(
    watched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "watched").symlink_to("/proc/nowhere")
    train(run)
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "warning: " in line]
    assert f"writing {run}/watched failed (" in told
    assert "training goes on, and the next line of metrics tries again" in told
    assert_same_bits(run, watched)


def test_images_that_cannot_be_read_cost_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = ({"__key__": f"s{i}", "png": encoded(np.zeros((9, 9, 3), "uint8"))} for i in range(9))
    (shard,) = write_shards(samples, tmp_path, "train", 9)
    (tmp_path / "classes.json").write_text("no names")
    run = train(tmp_path / "run", data__train=shard.url)
    told = capsys.readouterr().out
    assert "warning: reading images to watch failed (ValueError: " in told
    assert "training goes on, without looks at these images" in told
    assert not (run / "watched").exists()


def test_images_are_the_first_whole_ones_of_the_first_pass(tmp_path: Path) -> None:
    labels = ("7", "cat", "-1", "1e99", None, "2.0")

    def sample(i: int) -> dict[str, object]:
        label = {} if labels[i % 6] is None else {"cls": labels[i % 6]}
        pixels = np.full((24, 16, 3), 10 * i, "uint8")
        return {"__key__": f"s{i}", "png": b"" if i == 4 else encoded(pixels), **label}

    (shard,) = write_shards(map(sample, range(20)), tmp_path, "train", 20)
    config = DataConfig(train=(shard.url,), workers=0)
    shards = open_shards(config.train, True, config.source, "")
    order = Order([20], seed=3, window=64)
    images = read_watched(shards, config, order, 20, size=(8, 8), in_chans=3)
    numbers = [order[i][1] for i in range(20) if order[i][1] != 4]
    assert list(images.keys) == [f"s{i}" for i in numbers]
    assert images.inputs is images.shown
    assert images.shown[:, 0, 0, 0].tolist() == [10 * i for i in numbers]
    assert images.labels.tolist() == [{0: 7, 5: 2}.get(i % 6, -1) for i in numbers]


def test_labels_that_are_no_class_are_none() -> None:
    assert [class_of(text) for text in ("3", " 4\n", "-7", "x", "", "1.5")] == [
        3,
        4,
        -1,
        -1,
        -1,
        -1,
    ]


def test_many_bands_of_16_bits_are_watched_as_the_model_takes_them(tmp_path: Path) -> None:
    tiles = np.random.default_rng(0).integers(0, 9000, (12, 5, 40, 40)).astype(np.uint16)

    def sample(i: int) -> dict[str, object]:
        return {"__key__": f"s{i}", "npy": tiles[i]}

    (shard,) = write_shards(map(sample, range(12)), tmp_path, "train", 12)
    run = train(
        tmp_path / "run",
        data={
            **{"train": shard.url, "workers": 0, "pixels": "float32", "range": (0.0, 9000.0)},
            **{"mean": (0.5,), "std": (0.3,)},
        },
        model={"in_chans": 5, "stem_stride": 2, "decoder_dim": 32},
        precision="bf16",
        optim={"steps": 1, "batch_size": 4},
    )
    tensors, _ = read_safetensors(run / "watched/images.safetensors")
    assert tensors["inputs"].shape == (8, 5, 32, 32)
    assert tensors["inputs"].dtype == torch.float32
    expected = (255 * tensors["inputs"][:, :3].clamp(0, 1)).round().byte()
    assert (tensors["images"].int() - expected.int()).abs().max() <= 1
    found, header = look(run, 1)
    assert header["strides"] == [2, 4, 8, 16]
    assert found["pasted"].shape == (8, 3, 32, 32)


@pytest.mark.dist
@pytest.mark.parametrize(
    "env", [{}, pytest.param({"ACCELERATE_USE_FSDP": "true"}, marks=pytest.mark.slow)]
)
def test_processes_share_the_images(env: dict[str, str], watched: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ("--data.train", str(CHANGES["data.train"]), "--optim.batch_size", "4")
    done = pretrain(run, *flags, "--optim.steps", "4", world=2, env=env)
    assert done.returncode == 0, done.stderr
    ours, theirs = look(run, 0)[0], look(watched, 0)[0]
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-3)
    assert read_metrics(run)[-1]["rankme"] == pytest.approx(look(watched, 4)[1]["rankme"], rel=0.1)


def test_looks_grow_rarer_from_a_hundredth_of_the_run_to_its_end() -> None:
    assert look_steps(10_000, 6) == (100, 316, 1000, 3162, 10_000)
    assert look_steps(600, 3) == (6, 600)
    assert look_steps(600, 2) == (600,)
    assert look_steps(600, 1) == ()
    assert look_steps(3, 16) == (1, 2, 3)


def test_looks_take_at_most_two_hundredths_of_a_run() -> None:
    assert affordable(1000, 0.6) == pytest.approx(0.02 * 2 * 0.4 * 1000)


def test_a_few_images_are_refused() -> None:
    assert WatchConfig(images=0).images == 0
    with pytest.raises(ValueError, match=r"watch\.images=7 must be at least 8, or 0 to keep none"):
        WatchConfig(images=7)
