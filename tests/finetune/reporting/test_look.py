"""The report in a real Chromium: it shows, obeys the keyboard, and can be used by everyone."""

import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fcmae.run.metrics import read_metrics
from finetune.reporting.page import page as make_page
from finetune.reporting.record import read_runs
from tests.support.browser import Pages, faults, overflow
from tests.support.records import write_bad_samples, write_run

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Page

LOSS = "#curve-loss svg"
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def url(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a real run and one with hostile names, as a file."""
    folder = tmp_path_factory.mktemp("report")
    other = write_run(
        folder / "<script>alert(1)<" / "script>",
        20,
        config={EVIL: EVIL},
        columns={"loss": lambda i: 1.0 + (i % 2)},
    )
    write_bad_samples(other, EVIL, "x" * 300)
    third = write_run(folder / "plain" / "script>", 30, total=30)
    out = folder / "report.html"
    out.write_text(make_page(read_runs([other, third, trained])))
    return out.as_uri()


def opened(pages: Pages, url: str, *, width: int = 1400, dark: bool = False) -> "Page":
    """The report, when all its charts are there."""
    page = pages.open(url, width=width, dark=dark)
    page.wait_for_selector("html[data-drawn]", state="attached")
    return page


def path_of(page: "Page", chart: str = LOSS) -> list[str]:
    """How the lines of a chart go."""
    return page.eval_on_selector_all(f"{chart} path", "all => all.map(e => e.getAttribute('d'))")


def changed(page: "Page", before: list[str]) -> bool:
    """Whether the lines of the loss come to go another way."""
    for _ in range(50):
        if path_of(page) != before:
            return True
        page.wait_for_timeout(50)
    return False


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_everyone_can_use_it(width: int, dark: bool, pages: Pages, url: str) -> None:
    page = opened(pages, url, width=width, dark=dark)
    for details in page.locator("details:not(.numbers) > summary").all():
        details.click()
    page.get_by_text("Numbers of Loss").click()
    assert faults(page) == []
    assert overflow(page) == 0
    assert page.locator(".chart svg").count() == page.locator(".chart").count() >= 6
    for box in page.locator(".chart").all():
        size = box.bounding_box()
        assert size is not None
        assert size["height"] > 100


def test_names_are_texts(pages: Pages, url: str) -> None:
    page = opened(pages, url)
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    assert EVIL in page.locator("h1").inner_text()
    assert page.locator("main script").count() == 0
    assert page.locator("table", has_text=EVIL).count() > 0


def test_smoothing_by_keyboard_makes_lines_smooth(pages: Pages, url: str) -> None:
    page = opened(pages, url)
    before = path_of(page)
    page.get_by_label("Smoothing").focus()
    page.keyboard.press("End")
    assert changed(page, before)
    assert page.locator("#smoothed").inner_text() == "0.99"
    page.wait_for_function("report.view('curve-loss').signal('smoothing') === 0.99")
    rows = page.evaluate("report.view('curve-loss').data('loss')")
    jagged = [row["smooth"] for row in rows if row["run"] == EVIL]
    assert jagged[0] == 1
    assert jagged[1] == pytest.approx((0.99 * 1 + 2) / 1.99)
    assert jagged[-1] == pytest.approx(1.5, abs=0.02)


@pytest.mark.parametrize(
    ("label", "axis"), [("Logarithmic steps", "x"), ("Logarithmic values", "y")]
)
def test_axes_become_logarithmic_by_keyboard(label: str, axis: str, pages: Pages, url: str) -> None:
    page = opened(pages, url)
    before = path_of(page)
    assert page.evaluate(f"report.view('curve-loss').scale('{axis}').type") == "linear"
    page.get_by_label(label).focus()
    page.keyboard.press("Space")
    assert changed(page, before)
    assert page.evaluate(f"report.view('curve-loss').scale('{axis}').type") == "log"


def test_numbers_open_by_keyboard_and_are_those_of_the_run(
    trained: Path, pages: Pages, url: str
) -> None:
    page = opened(pages, url)
    page.get_by_text("Numbers of Loss").focus()
    page.keyboard.press("Enter")
    rows = page.locator("details[data-rows=loss] tbody tr", has_text="trained")
    page.wait_for_selector("details[data-rows=loss] table")
    shown = [row.split("\t") for row in rows.all_inner_texts()]
    assert [(int(step), float(loss)) for _, step, loss in shown] == [
        (line["step"], line["loss"]) for line in read_metrics(trained)
    ]


def test_all_numbers_can_be_saved(pages: Pages, url: str) -> None:
    page = opened(pages, url)
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save them").click()
    saved = json.loads(Path(saving.value.path()).read_text())
    assert saved == json.loads(page.locator("#data").text_content() or "")


def test_the_first_tab_skips_to_the_content(pages: Pages, url: str) -> None:
    page = opened(pages, url)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


def test_headings_go_down_by_one(pages: Pages, url: str) -> None:
    page = opened(pages, url)
    levels = page.eval_on_selector_all("h1, h2, h3, h4", "all => all.map(e => +e.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_print_is_dark_on_white(pages: Pages, url: str) -> None:
    page = opened(pages, url, dark=True)
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    assert not any(controls.is_visible() for controls in page.locator(".controls").all())
