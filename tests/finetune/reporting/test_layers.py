"""What excites channels: where patches are cut, and what GRN responds."""

from pathlib import Path

import numpy as np
import pytest

from finetune.reporting.layers import GAP, SILENT, TILE, cut, section
from finetune.reporting.record import read_run
from finetune.reporting.section import Section
from tests.support.watched import decoded, peaks, photographs, write_images, write_step

# Each pixel is a colour of its own: red tells the row, green the column
PLACES = np.stack([*np.mgrid[:32, :48], np.zeros((32, 48))]).astype(np.uint8)


@pytest.mark.parametrize(
    ("row", "column", "stride", "side", "top", "left"),
    [
        (10, 20, 1, 7, 7, 17),  # its centre is pixel (10, 20)
        (4, 5, 4, 14, 11, 15),  # ... and here the corner of (18, 22)
        (0, 0, 1, 7, 0, 0),
        (31, 47, 1, 7, 25, 41),
        (7, 0, 4, 28, 4, 0),
        (3, 5, 8, 32, 0, 28 - 12),
    ],
)
def test_patches_are_cut_around_their_places_and_inside_of_the_image(
    row: int, column: int, stride: int, side: int, top: int, left: int
) -> None:
    patch = cut(PLACES, row, column, stride, side)
    assert patch.shape == (3, side, side)
    assert patch[0, 0].tolist() == [top] * side
    assert patch[1, :, 0].tolist() == [left] * side


def made_of(run: Path, steps: dict[int, dict[str, np.ndarray]]) -> Section | None:
    """The section of a run with these steps and twelve images."""
    write_images(run, photographs(12), [-1] * 12)
    for step, tensors in steps.items():
        write_step(run, step, tensors)
    (run / "metrics.jsonl").touch()
    return section([read_run(run, "run")])


def test_patches_grow_with_the_stage(tmp_path: Path) -> None:
    tensors: dict[str, np.ndarray] = {}
    for stage in range(1, 5):
        tensors |= peaks(stage, [3, 5], 9, at=1)
    made = made_of(tmp_path, {2: tensors})
    assert made is not None
    for stage, text in enumerate(
        ("patches of 7 x 7", "patches of 14 x 14", "patches of 28 x 28"), 1
    ):
        assert f"Stage {stage}: {text} pixels" in made.body
    assert "Stage 4: whole images of 32 x 32 pixels" in made.body
    assert made.body.count("<figcaption>channel 5<br>") == 4
    assert "1 to 2</span>" in made.body
    alt = "Patches that excite channel 3 of stage 1 most: of key0, key1, key2, key3"
    assert alt in made.body
    assert made.charts == {}


def test_a_picture_has_the_patches_of_its_channel(tmp_path: Path) -> None:
    made = made_of(tmp_path, {2: peaks(4, [3], 9)})
    assert made is not None
    whole = decoded(made.body.partition('src="')[2].partition('"')[0]).astype(float)
    assert whole.shape == (3, 3 * TILE + 2 * GAP, 3 * TILE + 2 * GAP)
    pixels = photographs(12).astype(float)
    for i in range(9):
        y, x = (at * (TILE + GAP) for at in divmod(i, 3))
        tile = whole[:, y : y + TILE, x : x + TILE]
        distances = np.abs(tile.mean((1, 2)) - pixels.mean((2, 3))).sum(1)
        assert distances.argmin() == i


def test_quantiles_of_grn_are_those_of_numpy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, middle, last = rng.gamma(1, 1, (3, 2, 40)).astype(np.float32)
    steps = {
        step: {f"grn{block}.response": response for block, response in enumerate(responses)}
        for step, responses in ((0, first), (5, middle), (9, last))
    }
    made = made_of(tmp_path, steps)
    assert made is not None
    rows = made.data["grn0"]
    assert [(row["when"], row["block"]) for row in rows] == [
        *(("step 0", 1), ("step 0", 2), ("step 9", 1), ("step 9", 2))
    ]
    assert rows[3]["q95"] == pytest.approx(np.quantile(last[1], 0.95))
    assert rows[3]["most"] == last[1].max()
    assert rows[0]["q50"] == pytest.approx(np.median(first[0]))
    scale = made.charts["layers-grn0"]["layer"][0]["encoding"]["y"]["scale"]
    assert scale["domainMin"] == max(SILENT, min(row["q05"] for row in rows))


def test_v1_has_no_chart_of_grn_and_a_run_without_looks_no_section(tmp_path: Path) -> None:
    made = made_of(tmp_path / "v1", {0: peaks(1, [0], 9)})
    assert made is not None
    assert "GRN" not in made.body
    assert made_of(tmp_path / "none", {0: {"features": np.zeros((12, 3), np.float16)}}) is None


def test_more_runs_show_fewer_channels(tmp_path: Path) -> None:
    for name in "abcd":
        made_of(tmp_path / name, {0: peaks(1, range(8), 9)})
    made = section([read_run(tmp_path / name, name) for name in "abcd"])
    assert made is not None
    assert made.body.count("<figcaption>channel") == 4 * 4
    assert made.body.count("<figcaption>channel 7<br>") == 4
