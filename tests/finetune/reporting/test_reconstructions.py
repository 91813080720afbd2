"""Reconstructions of a run: which steps, which pictures, and how much of the page they take."""

from pathlib import Path

import numpy as np
import pytest

from finetune.reporting import reconstructions
from finetune.reporting.pictures import SMALL, data_uri, mosaic
from finetune.reporting.reconstructions import MOST_BYTES, MOST_RUNS, MOST_STEPS, section, shown_of
from finetune.reporting.record import read_run
from finetune.reporting.watched import read_watched
from tests.support.images import photograph
from tests.support.watched import decoded, photographs, views, write_images, write_step

PIXELS = photographs(9)


def write_run(run: Path, pixels: np.ndarray, steps: range) -> Path:
    write_images(run, pixels, [-1] * len(pixels))
    for step in steps:
        write_step(run, step, views(pixels, step))
    return run


def test_exact_pictures_keep_every_pixel() -> None:
    exact, other = (data_uri(PIXELS[0], SMALL, exact=exact) for exact in (True, False))
    assert np.array_equal(decoded(exact), PIXELS[0])
    assert len(other) < len(exact)


def test_large_pictures_are_reduced() -> None:
    assert decoded(data_uri(photographs(1, 300)[0], 224)).shape == (3, 224, 224)


def test_a_mosaic_has_its_tiles_in_rows() -> None:
    whole = mosaic(PIXELS[:5], 3, 2)
    assert whole.shape == (3, 2 * 32 + 2, 3 * 32 + 4)
    assert np.array_equal(whole[:, 34:, 34:66], PIXELS[4])
    assert np.array_equal(whole[:, :32, 68:], PIXELS[2])
    assert np.unique(whole[:, 32:34]).size == 1


def test_eight_images_are_shown_in_four_views_at_every_step(tmp_path: Path) -> None:
    watched = read_watched(write_run(tmp_path, PIXELS, range(3)), [])
    assert watched is not None
    shown = shown_of("run", watched, watched.steps, MOST_BYTES)
    assert shown.steps == [0, 1, 2]
    assert len(shown.cards) == 8
    for i, (name, pictures) in enumerate(shown.cards):
        assert name == f"key{i}"
        assert [picture.view for picture in pictures] == list(reconstructions.ABOUT)
        original, visible, *changing = pictures
        assert np.array_equal(decoded(original.uris[0]), PIXELS[i])
        assert np.array_equal(decoded(visible.uris[0]), views(PIXELS, 2)["visible"][i])
        for picture in changing:
            assert len(set(picture.uris)) == len(picture.alts) == 3
            for step in range(3):
                expected = views(PIXELS, step)[picture.view][i]
                assert np.array_equal(decoded(picture.uris[step]), expected)
                assert picture.alts[step] == f"key{i}, {picture.view} at step {step}"


@pytest.mark.parametrize("most", [0, 200_000, 10**9])
def test_steps_are_left_out_where_pictures_take_too_much(most: int, tmp_path: Path) -> None:
    watched = read_watched(write_run(tmp_path, PIXELS, range(40)), [])
    assert watched is not None
    shown = shown_of("run", watched, watched.steps, most)
    size = sum(len(uri) for _, pictures in shown.cards for p in pictures for uri in p.uris)
    assert (shown.steps[0], shown.steps[-1]) == (0, 39)
    assert len(shown.steps) + shown.left_out == 40
    if most == 0:
        assert len(shown.steps) == 2
    elif most == 10**9:
        assert len(shown.steps) == MOST_STEPS
    else:
        assert 2 < len(shown.steps) < MOST_STEPS
        assert 0.7 * most < size < 1.05 * most


def test_pictures_of_many_runs_are_smaller(tmp_path: Path) -> None:
    whole = photograph(224, 300).transpose(2, 0, 1)
    for i in range(MOST_RUNS + 1):
        run = write_run(tmp_path / str(i), np.stack([whole[..., :224], whole[..., 76:]]), range(3))
        (run / "metrics.jsonl").touch()
    runs = [read_run(tmp_path / str(i), str(i)) for i in range(MOST_RUNS + 1)]
    made = [
        shown_of("run", run.watched, run.watched.steps, m)
        for run in runs[:1]
        if run.watched
        for m in (10_000, MOST_BYTES)
    ]
    sides = [decoded(shown.cards[0][1][0].uris[0]).shape[1] for shown in made]
    assert sides == [128, 224]
    assert made[0].steps == [0, 2]
    found = section(runs)
    assert found is not None
    assert len(found.body) < 1.1 * MOST_BYTES
    assert found.body.count('class="film"') == MOST_RUNS
    assert "1 more runs have kept pictures" in found.body


def test_a_run_without_pictures_has_no_section(tmp_path: Path) -> None:
    write_images(tmp_path, PIXELS, [-1] * 9)
    write_step(tmp_path, 1, {"features": np.zeros((9, 4), np.float16)})
    (tmp_path / "metrics.jsonl").touch()
    assert section([read_run(tmp_path, "run")]) is None


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    keys = ["<script>alert(1)</script>", '"><img src=x>', "a\x1b[31mb\u202ec", *"defgh"]
    write_images(tmp_path, PIXELS[:8], [0] * 8, ["<b>&amp;"], keys)
    write_step(tmp_path, 0, views(PIXELS[:8], 0))
    (tmp_path / "metrics.jsonl").touch()
    made = section([read_run(tmp_path, "run")])
    assert made is not None
    assert "&lt;script&gt;alert(1)&lt;/script&gt; (&lt;b&gt;&amp;amp;)" in made.body
    assert not any(text in made.body for text in ("<script", "src=x>", "<b>", "\x1b", "\u202e"))
    assert "type=range" not in made.body  # one step has no slider
