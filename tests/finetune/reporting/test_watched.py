"""Reading what training keeps for a report, whole or damaged."""

from pathlib import Path

import numpy as np
import pytest

import fcmae
from finetune.reporting import features, layers, reconstructions, spectrum
from finetune.reporting.maps import pca
from finetune.reporting.record import read_run, read_runs
from finetune.reporting.watched import evenly, read_watched
from tests.support.programs import ROOT
from tests.support.watched import peaks, photographs, views, write_images, write_step

PIXELS = photographs(10)


def whole(run: Path) -> dict[str, np.ndarray]:
    """Write images, and tell the tensors of a step that are whole."""
    write_images(run, PIXELS, [0, 1, 7, -1, *[0] * 6], ["cat", "dog"])
    features = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float16)
    response = np.ones(5, np.float32)
    return {"features": features, "grn0.response": response} | views(PIXELS, 3) | peaks(2, [1], 9)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    tensors = whole(tmp_path)
    for step in (12, 0, 1_000):
        write_step(tmp_path, step, tensors)
    problems = list[str]()
    watched = read_watched(tmp_path, problems)
    assert watched is not None
    assert problems == []
    assert [step.step for step in watched.steps] == [0, 12, 1_000]
    assert np.array_equal(watched.images.pixels, PIXELS)
    assert np.array_equal(watched.steps[1]["features"], tensors["features"])
    names = [watched.images.named(i) for i in range(4)]
    assert names == ["key0 (cat)", "key1 (dog)", "key2 (7)", "key3"]
    assert watched.having("features", "visible") == watched.steps
    assert watched.having("stage1.channels") == []


def test_what_a_real_run_keeps_is_shown(tmp_path: Path) -> None:
    changes = {
        "data.train": str(ROOT / "data/demo/train-000000.tar.gz"),
        "data.workers": 0,
        "model.decoder_dim": 32,
        "optim": {"steps": 4, "batch_size": 4},
        "run": {"log_every": 1, "picture_every": 0, "dir": tmp_path / "run"},
        "watch": {"images": 10, "collapse_every": 2},
    }
    directory = fcmae.pretrain("demo", changes).directory
    (run,) = read_runs([directory])
    assert run.problems == []
    assert run.watched is not None
    assert "Smileys & Emotion" in run.watched.images.classes
    pictures = reconstructions.section([run])
    measured = spectrum.section([run])
    maps = features.section([run])
    excited = layers.section([run])
    assert pictures is not None
    assert measured is not None
    assert maps is not None
    assert excited is not None
    assert pictures.data["steps"] == [{"run": "run", "step": step} for step in (0, 4)]
    assert {"spectrum-collapse0", "spectrum-rankme"} <= set(measured.charts)
    count = len(run.watched.images)
    assert len(maps.data["map0"]) == len(maps.data["pictures"]) == count >= 8
    ours = fcmae.features(directory, list(run.watched.images.pixels.transpose(0, 2, 3, 1)))
    places, _ = pca(ours.numpy())
    found = [[row["pca_after_x"], row["pca_after_y"]] for row in maps.data["map0"]]
    np.testing.assert_allclose(found, places, atol=0.02 * np.abs(places).max())  # half precision
    blocks = [(row["when"], row["block"]) for row in excited.data["grn0"]]
    assert blocks == [(f"step {step}", block) for step in (0, 4) for block in range(1, 13)]
    assert excited.body.count("Patches that excite channel") == 4 * 8


def test_a_run_that_watches_nothing_has_no_problem(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    run = read_run(tmp_path, "run")
    assert run.watched is None
    assert not any("watched" in problem for problem in run.problems)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"features": np.zeros((9, 4), np.float16)},
            "'features' is F16 9 x 4, and not F16 10 x any",
        ),
        ({"features": np.zeros((10, 4), np.float32)}, "'features' is F32"),
        ({"pasted": np.zeros((8, 3, 16, 16), np.uint8)}, "'pasted' is U8 8 x 3 x 16 x 16"),
        (
            {"stage2.rows": np.full((1, 9), 16)},
            "'stage2.rows' has values that are not from 0 to 15",
        ),
        ({"stage2.images": np.full((1, 9), -1)}, "'stage2.images' has values"),
        ({"stage2.columns": np.zeros((2, 9), np.int64)}, "'stage2.columns' is I64 2 x 9"),
        ({"stage9.channels": np.zeros(1, np.int64)}, "no stride of stage 9"),
        ({"grn0.response": np.zeros(0, np.float32)}, "'grn0.response' is F32 0, and not F32 any"),
        ({"grn0.response": np.zeros((1, 2), np.float32)}, "'grn0.response' is F32 1 x 2"),
    ],
)
def test_a_step_of_other_sizes_is_left_out_and_told(
    change: dict[str, np.ndarray], told: str, tmp_path: Path
) -> None:
    tensors = whole(tmp_path)
    write_step(tmp_path, 1, tensors)
    write_step(tmp_path, 2, tensors | change)
    (problem, steps) = read(tmp_path)
    assert steps == [1]
    assert "watched/step_0000002.safetensors cannot be read" in problem
    assert told in problem


@pytest.mark.parametrize("content", [b"", b"\xff" * 99, b"\x10\0\0\0\0\0\0\0{}"])
def test_a_file_that_is_none_is_left_out_and_told(content: bytes, tmp_path: Path) -> None:
    write_step(tmp_path, 1, whole(tmp_path))
    (tmp_path / "watched" / "step_0000002.safetensors").write_bytes(content)
    problem, steps = read(tmp_path)
    assert steps == [1]
    assert "step_0000002.safetensors cannot be read" in problem
    (tmp_path / "watched" / "images.safetensors").write_bytes(content)
    problems = list[str]()
    assert read_watched(tmp_path, problems) is None
    assert "watched/images.safetensors cannot be read" in problems[0]


def read(run: Path) -> tuple[str, list[int]]:
    """The one problem, and the steps."""
    found = read_run(run, "run")
    assert found.watched is not None
    (problem,) = (problem for problem in found.problems if "watched" in problem)
    return problem, [step.step for step in found.watched.steps]


def test_images_need_a_key_each(tmp_path: Path) -> None:
    write_images(tmp_path, PIXELS, [0] * 10, keys=["only one"])
    problems = list[str]()
    assert read_watched(tmp_path, problems) is None
    assert "1 keys for 10 images" in problems[0]


@pytest.mark.parametrize(
    ("count", "most", "chosen"),
    [(0, 3, []), (3, 3, [0, 1, 2]), (9, 3, [0, 4, 8]), (7, 2, [0, 6]), (5, 1, [4])],
)
def test_the_first_the_last_and_an_even_choice(count: int, most: int, chosen: list[int]) -> None:
    assert evenly(count, most) == chosen
