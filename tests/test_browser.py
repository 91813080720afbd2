"""What the browser of the tests notes: errors, requests that leave, faults of accessibility."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.browser import Pages, faults, overflow

GOOD = "<!doctype html><html lang=en><title>A</title><main><h1>A</h1><p>Text.</p></main>"


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], str]:
    """Saves a page, and tells its address."""

    def save(html: str) -> str:
        path = tmp_path / "page.html"
        path.write_text(html)
        return path.as_uri()

    return save


def test_a_good_page_passes(pages: Pages, saved: Callable[[str], str], tmp_path: Path) -> None:
    page = pages.open(saved(GOOD), width=400, dark=True)
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (faults(page), overflow(page), pages.wrong) == ([], 0, [])
    assert len(pages.pictures(page.url, tmp_path)) == 4


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("<script>console.error('oh')</script>", "oh"),
        ("<script>none.such</script>", "none is not defined"),
        ("<img src=http://192.0.2.1/a.png alt=''>", "leaves the machine: http://192.0.2.1/a.png"),
        ("<script>new WebSocket('ws://192.0.2.1/')</script>", "leaves the machine: ws://192.0.2.1"),
    ],
)
def test_what_goes_wrong_is_noted(
    fault: str, told: str, pages: Pages, saved: Callable[[str], str]
) -> None:
    page = pages.open(saved(GOOD))
    page.set_content(GOOD + fault, wait_until="commit")
    for _ in range(50):
        if pages.wrong:
            break
        page.wait_for_timeout(100)
    page.context.close()
    assert any(told in line for line in pages.wrong), pages.wrong
    pages.wrong.clear()


def test_faults_of_accessibility_and_width_are_found(
    pages: Pages, saved: Callable[[str], str]
) -> None:
    page = pages.open(saved(GOOD + "<img src=data:,><div style='width:3000px'>wide</div>"))
    assert any(line.startswith("image-alt") for line in faults(page))
    assert overflow(page) > 1000
    pages.wrong.clear()
