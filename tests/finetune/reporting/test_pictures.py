"""The sections of pictures in a real Chromium: what moves, what can be seen, and by whom."""

import json

import numpy as np
import pytest
from playwright.sync_api import expect

from finetune.reporting.page import page
from finetune.reporting.record import read_runs
from tests.support.browser import Pages, faults, overflow
from tests.support.watched import peaks, photographs, views, write_images, write_step

pytestmark = pytest.mark.slow

STEPS = (0, 4, 9)
KEYS = ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "</script>", "{{ 7 * 7 }}"]
CLASSES = ["<b>cat</b>", "dog & cow", "datum.key", "\u202eevil"]
COUNT = 24


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report of two runs, whose classes and keys are hostile."""
    folder = tmp_path_factory.mktemp("runs")
    pixels = photographs(COUNT)
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        labels = [i % 4 for i in range(COUNT)] if name == "one" else [-1] * COUNT
        keys = [*KEYS, *(f"key{i}" for i in range(COUNT - len(KEYS)))]
        write_images(folder / name, pixels, labels, CLASSES, keys)
        for step in STEPS:
            tensors: dict[str, np.ndarray] = {
                "features": rng.normal(size=(COUNT, 8)).astype(np.float16)
            }
            for stage in range(1, 5):
                tensors |= peaks(stage, range(8), 9, at=1)
            for block in range(3):
                tensors[f"grn{block}.response"] = rng.gamma(2, 0.5, 30).astype(np.float32)
            write_step(folder / name, step, tensors | views(pixels, step))
        lines = [
            {"step": s, "collapse": [0.4, 0.3, 0.35], "rankme": 3.0 + s, "alpha_req": 1.1}
            | {"knn_accuracy": 0.2 + 0.01 * s}
            for s in STEPS
        ]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (folder / name / "metrics.jsonl").write_text(text)
    path = folder / "report.html"
    path.write_text(page(read_runs([folder])))
    return path.as_uri()


def test_the_slider_changes_the_pictures(pages: Pages, report: str) -> None:
    shown = pages.open(report)
    film = shown.locator(".film").first
    slider = film.get_by_label("Step")
    pictures = film.locator(".views img:visible")
    assert pictures.count() == 8 * 4
    seen = []
    for key in ("End", "ArrowLeft", "Home"):
        slider.press(key)
        text = slider.get_attribute("aria-valuetext")
        seen.append(
            (text, film.locator("output").inner_text(), pictures.nth(2).get_attribute("src"))
        )
    assert [place[:2] for place in seen] == [("step 9", "9"), ("step 4", "4"), ("step 0", "0")]
    assert len({place[2] for place in seen}) == 3
    assert pictures.count() == 8 * 4
    assert pictures.nth(0).get_attribute("src") != seen[2][2]
    other = shown.locator(".film").nth(1)
    assert other.locator("output").inner_text() == "9"  # each run has its own


def test_it_plays_from_the_first_step_to_the_last(pages: Pages, report: str) -> None:
    shown = pages.open(report)
    film = shown.locator(".film").first
    film.get_by_role("button", name="Play").press("Enter")
    assert film.locator("output").inner_text() == "0"
    assert film.get_by_role("button").inner_text() == "Pause"
    expect(film.locator("output")).to_have_text("9")
    film.get_by_role("button", name="Play").wait_for()


def test_the_maps_are_switched_by_keyboard(pages: Pages, report: str) -> None:
    shown = pages.open(report)
    shown.wait_for_selector("html[data-drawn]")
    first = shown.locator("#maps-0")
    linear, close = first.locator("[data-map=pca]"), first.locator("[data-map=tsne]")
    assert (linear.is_visible(), close.locator("svg").first.is_visible()) == (True, False)
    shown.locator("input[name=maps-0][value=pca]").press("ArrowRight")
    assert (linear.locator("svg").first.is_visible(), close.is_visible()) == (False, True)
    assert close.locator("svg").count() == 2
    assert shown.locator("#maps-1 [data-map=pca]").is_visible()


def test_a_point_shows_its_image_and_its_names_as_text(pages: Pages, report: str) -> None:
    shown = pages.open(report)
    shown.wait_for_selector("html[data-drawn]")
    shown.locator("#map0-pca-before .mark-symbol.role-mark path").first.hover()
    told = shown.locator("#vg-tooltip-element.visible")
    told.wait_for()
    assert "data:image/webp" in str(told.locator("img").get_attribute("src"))
    assert "<script>alert(1)</script>" in told.inner_text()
    assert "<b>cat</b>" in told.inner_text()


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (400, True)])
def test_everything_is_shown_and_can_be_used(
    width: int, dark: bool, pages: Pages, report: str
) -> None:
    shown = pages.open(report, width=width, dark=dark)
    shown.wait_for_selector("html[data-drawn]")
    assert faults(shown) == []
    assert overflow(shown) == 0
    for chart in shown.locator(".chart").all():
        assert chart.locator("svg .marks, svg g").count() > 0
    broken = "i => !i.complete || !i.naturalWidth || !i.hasAttribute('alt')"
    assert shown.evaluate(f"Array.from(document.images).filter({broken}).length") == 0
    sizes = "i => i.checkVisibility() ? [i.getBoundingClientRect().width] : []"
    views = shown.evaluate(f"Array.from(document.querySelectorAll('.views img')).flatMap({sizes})")
    assert len(views) == 2 * 8 * 4
    assert min(views) >= 128
    assert "49" not in shown.locator(".card").nth(3).inner_text()
