"""The page in a real Chromium, against the real program: what people click, type and drop."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from finetune.exploring.pictures import MOST_BYTES
from tests.support.browser import Pages, faults, overflow
from tests.support.exploring import CLASSES, TEST, explored, fine_tuned, pretrained
from tests.support.images import png

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page on a run, with a data set."""
    run = pretrained(tmp_path_factory.mktemp("page"))
    with explored(run, "--data", TEST, "--compare", "16") as (url, _):
        yield url


@pytest.fixture
def page(url: str, pages: Pages) -> "Page":
    """The page once the first image of the data set is shown."""
    page = pages.open(url)
    page.locator("#panels figure").first.wait_for()
    return page


def settled(page: "Page") -> str:
    """The panels, once no answer is awaited any more."""
    page.locator("#panels[aria-busy=false]").wait_for()
    return page.inner_html("#panels")


def seen(page: "Page") -> int:
    """How many patches are visible."""
    return page.locator("#patches button[aria-pressed=true]").count()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_everyone_can_use_it(width: int, dark: bool, url: str, pages: Pages) -> None:
    page = pages.open(url, width=width, dark=dark)
    page.locator("#panels figure").first.wait_for()
    page.get_by_label("compares it with all others").check()
    page.locator("#patches button[aria-pressed=true]").first.click()
    page.locator("#panels rect").first.wait_for()
    settled(page)
    assert faults(page) == []
    assert overflow(page) == 0
    broken = "[...document.images].filter((image) => !image.complete || !image.naturalWidth).length"
    page.wait_for_load_state("networkidle")
    assert page.evaluate(broken) == 0


def test_the_slider_and_the_buttons_change_the_mask(page: "Page") -> None:
    before = settled(page)
    assert seen(page) == 6
    page.get_by_role("button", name="Draw another mask").click()
    drawn = settled(page)
    assert seen(page) == 6
    assert drawn != before
    page.get_by_label("Share of hidden patches").fill("25")
    assert settled(page) != drawn
    assert page.inner_text("#count") == "12 of 16 patches are visible"
    assert page.inner_text("#percent") == "25"
    page.get_by_role("button", name="Show all").click()
    settled(page)
    assert seen(page) == 16
    assert page.get_by_role("heading", name="Feature maps of stage 4").is_visible()
    page.get_by_label("Features of").select_option("2")
    settled(page)
    assert page.get_by_role("heading", name="Feature maps of stage 2").is_visible()


def test_a_click_hides_a_patch_and_another_shows_it(page: "Page") -> None:
    before = settled(page)
    patch = page.locator("#patches button[aria-pressed=true]").nth(2)
    handle = patch.element_handle()
    handle.click()
    assert handle.get_attribute("aria-pressed") == "false"
    assert settled(page) != before
    assert page.inner_text("#count") == "5 of 16 patches are visible"
    handle.click()
    assert settled(page) == before


def test_the_last_visible_patch_stays(page: "Page") -> None:
    page.get_by_label("Share of hidden patches").fill("93")
    settled(page)
    assert seen(page) == 1
    page.locator("#patches button[aria-pressed=true]").click()
    assert "one patch has to stay visible" in page.inner_text("#error")
    assert seen(page) == 1


def test_a_patch_is_compared_with_all_others(page: "Page") -> None:
    page.get_by_label("compares it with all others").check()
    page.locator("#patches button[aria-pressed=true]").first.click()
    settled(page)
    assert seen(page) == 6
    assert page.get_by_role("img", name="cosine of the patch in row").is_visible()
    assert page.locator("#panels svg").count() == 7  # six of other images
    page.locator("#patches button[aria-pressed=false]").first.click()
    settled(page)
    assert page.get_by_text("The chosen patch is hidden").is_visible()


def test_the_keyboard_does_it_all(page: "Page") -> None:
    settled(page)
    first, below = page.locator("#patches button").nth(0), page.locator("#patches button").nth(5)
    was = below.get_attribute("aria-pressed")
    page.locator(".thumbnails button").nth(0).focus()
    for _ in range(100):
        page.keyboard.press("Tab")
        if first.evaluate("(button) => button === document.activeElement"):
            break
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert below.evaluate("(button) => button === document.activeElement")
    page.keyboard.press("Space")
    settled(page)
    assert below.get_attribute("aria-pressed") != was
    assert below.evaluate("(button) => button === document.activeElement")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")  # there is none above, and the focus stays
    assert first.evaluate("(button) => button === document.activeElement")
    page.get_by_label("Share of hidden patches").focus()
    page.keyboard.press("Home")
    settled(page)
    assert seen(page) == 16


def test_images_of_the_data_set_are_chosen_and_turned_over(page: "Page") -> None:
    before = page.inner_text("#name")
    page.get_by_role("button", name="image 7 of the data set").click()
    settled(page)
    assert page.inner_text("#name") != before
    assert page.get_by_role("button", name="Previous").is_disabled()
    page.get_by_role("button", name="Next").click()
    page.get_by_role("button", name="image 25 of the data set").wait_for()
    assert page.get_by_text("25 to 48 of 1164").is_visible()


def test_files_are_dropped_and_wrong_ones_are_told(page: "Page", tmp_path: Path) -> None:
    before = settled(page)
    for name, content, why in (
        ("broken.png", png(0)[:300], "cannot be decoded as an image"),
        ("page.png", b"<!doctype html>", "no image in a format that is read"),
        ("huge.png", b"\x89PNG" + bytes(MOST_BYTES), "33 MB, and the page takes 32 MB"),
    ):
        (tmp_path / name).write_bytes(content)
        page.set_input_files("#file", tmp_path / name)
        page.get_by_role("alert").filter(has_text=why).wait_for()
        assert settled(page) == before
    (tmp_path / "good.png").write_bytes(png(0))
    page.set_input_files("#file", tmp_path / "good.png")
    page.get_by_text("your image").wait_for()
    assert settled(page) != before
    assert page.locator("#error").is_hidden()


def test_a_file_is_dropped_by_the_mouse(page: "Page") -> None:
    settled(page)
    data = page.evaluate_handle(
        """(bytes) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "a.png"));
          return data;
        }""",
        list(png(3)),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    page.get_by_text("your image").wait_for()


def test_weights_without_decoder_tell_classes(tmp_path: Path, pages: Pages) -> None:
    with explored(fine_tuned(tmp_path), "--host", "0.0.0.0") as (url, _):
        address = urlsplit(url)
        page = pages.open(address._replace(netloc=f"127.0.0.1:{address.port}").geturl())
        assert "token" not in page.url
        assert page.get_by_text("Choose a picture, and what the model makes").is_visible()
        assert page.locator("#mask").is_hidden()
        (tmp_path / "a.png").write_bytes(png(0))
        page.set_input_files("#file", tmp_path / "a.png")
        page.get_by_text("These weights have no decoder").wait_for()
        rows = page.locator("section[aria-labelledby=classes] tbody tr")
        assert {row.split("\t")[0] for row in rows.all_inner_texts()} == set(CLASSES)
        shares = [float(row.split("\t")[1]) for row in rows.all_inner_texts()]
        assert sum(shares) == pytest.approx(1, abs=0.002)
        assert faults(page) == []
        page.context.close()
