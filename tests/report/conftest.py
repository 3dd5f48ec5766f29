"""The synthetic study folder that the report's tests share, and a browser that reports every fault of a page."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from synthetic_study import make_study

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")  # while it lives, nothing else in this process can run an event loop
def browser() -> Iterator["Browser"]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright (in the dev extra)")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the PATH: apt-get install chromium")
    with playwright.sync_playwright() as runner:
        found = runner.chromium.launch(executable_path=chromium, args=ARGUMENTS, timeout=120_000)
        yield found
        found.close()


@pytest.fixture
def opened(browser: "Browser") -> Iterator[Callable[[str], "Page"]]:
    """Opens a page at a desktop's size; any console message, page error or request elsewhere fails the test."""
    faults: list[str] = []
    pages: list[Page] = []

    def open_page(url: str) -> "Page":
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(120_000)
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("requestfailed", lambda request: faults.append(request.url[:200]))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else faults.append(r.url))
        page.goto(url)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not faults, faults
