"""Pages in a real, headless Chromium, which notes what goes wrong and what leaves the machine.

    def test_it_shows(pages: Pages) -> None:
        page = pages.open("file:///tmp/report.html", width=400, dark=True)
        assert page.get_by_role("heading").first.is_visible()
        assert faults(page) == []
        assert overflow(page) == 0

Once the test is over, the fixture fails it if a page has logged an error, or asked for anything
that is not on this machine. `pages.pictures(url, tmp_path)` takes pictures for people to look at.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

OWN_SCHEMES = {"file", "data", "blob", "about"}
QUIET = [
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]
WIDTHS = (400, 1400)
HEIGHT = 900
GRAVE = ("serious", "critical")


class Pages:
    """Opens pages, each in a profile of its own, and keeps what goes wrong in `wrong`.

    A test that provokes an error looks it up there, and clears the list.
    """

    def __init__(self, browser: "Browser") -> None:
        self.browser = browser
        self.wrong: list[str] = []
        self.requests: list[str] = []

    def open(self, url: str, *, width: int = 1400, dark: bool = False) -> "Page":
        """Open a page, and wait until it has loaded.

        Args:
            url: its address, `Path.as_uri()` for a file.
            width: of the window, in pixels.
            dark: what the page is told that the person prefers.
        """
        context = self.browser.new_context(
            viewport={"width": width, "height": HEIGHT},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        page = context.new_page()
        page.on("console", lambda m: self.wrong.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("request", lambda request: self._note(request.url))
        page.on("websocket", lambda socket: self._note(socket.url))
        page.goto(url)
        return page

    def _note(self, url: str) -> None:
        self.requests.append(url)
        parts = urlsplit(url)
        if parts.scheme not in OWN_SCHEMES and parts.hostname != "127.0.0.1":
            self.wrong.append(f"a request leaves the machine: {url}")

    def pictures(self, url: str, folder: Path) -> list[Path]:
        """Take pictures of the whole page: narrow and wide, light and dark."""
        files = []
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                page = self.open(url, width=width, dark=scheme == "dark")
                files.append(folder / f"{width}-{scheme}.png")
                page.screenshot(path=files[-1], full_page=True)
                page.context.close()
        return files

    def close(self) -> None:
        """Close all pages."""
        for context in self.browser.contexts:
            context.close()


def faults(page: "Page") -> list[str]:
    """The serious and critical faults of accessibility that axe-core finds, one a line."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{fault['id']}: {fault['help']}: {node['html'][:200]}"
        for fault in found
        if fault["impact"] in GRAVE
        for node in fault["nodes"]
    ]


def overflow(page: "Page") -> int:
    """By how many pixels the page is wider than its window."""
    return page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    """The Chromium of this machine, for a file of tests.

    It does not outlive the file: playwright keeps an event loop running in the thread of the tests,
    in which `asyncio.run` fails.
    """
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium is installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def pages(chromium: "Browser") -> Iterator[Pages]:
    """Pages of a test, which fails if one of them logs an error or asks another machine."""
    pages = Pages(chromium)
    yield pages
    pages.close()
    assert pages.wrong == []
