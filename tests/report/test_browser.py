"""The page in a real browser: figures, videos, links, a phone's width, print. Needs Debian's chromium package."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from vlm4vla.report.build import build

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright (in the dev extra)")
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def url(study: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with two videos inside and four beside it, so that both ways are played."""
    out = tmp_path_factory.mktemp("page")
    first = sorted((study / "eval-full/videos").glob("*.mp4"))
    result = build(study, out, embed_limit=sum(f.stat().st_size for f in first[:2]))
    assert result["videos_embedded"] and result["videos_copied"]
    return (out / "index.html").as_uri()


@pytest.fixture
def page(opened: Callable[[str], "playwright.Page"], url: str) -> "playwright.Page":
    return opened(url)


def test_figures_are_drawn(page: "playwright.Page") -> None:
    for name in ("success", "comparisons", "learning"):
        box = page.locator(f"#figure-{name} .wide svg").bounding_box()
        assert box is not None and box["width"] > 700 and box["height"] > 80
        assert not page.locator(f"#figure-{name} .narrow").is_visible()


def test_every_video_plays(page: "playwright.Page") -> None:
    videos = page.locator("video")
    assert videos.count() == 6
    for i in range(6):
        seen = videos.nth(i).evaluate(
            """async (v) => {
                 await v.play();
                 const from = v.currentTime, start = Date.now();
                 while (v.currentTime < from + 0.15 && Date.now() - start < 8000)
                   await new Promise(r => setTimeout(r, 40));
                 v.pause();
                 return {moved: v.currentTime - from, width: v.videoWidth, muted: v.muted, loop: v.loop,
                         error: v.error && v.error.message};
               }"""
        )
        assert seen["error"] is None and seen["moved"] >= 0.15 and seen["width"] == 96, (i, seen)
        assert seen["muted"] and seen["loop"]


@pytest.mark.parametrize("width", [390, 320, 768])
def test_no_horizontal_scroll(page: "playwright.Page", width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.body.scrollWidth") <= width
    if width < 640:
        scrolled = page.evaluate("[...document.querySelectorAll('.scroll')].some(e => e.scrollWidth > e.clientWidth)")
        assert scrolled  # tables scroll inside their own container
        assert page.locator("#figure-success .narrow").is_visible()


def test_print(page: "playwright.Page") -> None:
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF-") and 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 12
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 700, "height": 1000})  # the text width of A4 in CSS pixels
    assert not page.locator("video").first.is_visible() and page.locator(".clips img").first.is_visible()
    cut = page.evaluate(
        "[...document.querySelectorAll('table')].filter(t => t.getBoundingClientRect().right > innerWidth + 1).length"
    )
    assert cut == 0
