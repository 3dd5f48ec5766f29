"""The episode browser in a real browser: every number shows its rows, filters, pairs, videos, and texts that attack."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from big_study import make_big_study

from vlm4vla.records import Comparison, read_all
from vlm4vla.report import browser as links
from vlm4vla.report.build import build

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright (in the dev extra)")
pytestmark = pytest.mark.browser
Open = Callable[[str], "playwright.Page"]

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 2">',
    "{{ 7 * 7 }}{% include 'style.css' %}<!--",
    "__proto__",
    "\u202eright to left & 'quoted' \"twice\" #episodes?arm=x%00",
    "long" * 80,
)
GO = """async (hash) => {
  if (location.hash !== hash) {
    const gone = new Promise((done) => window.addEventListener("hashchange", () => done(), {once: true}));
    location.hash = hash;
    await gone;
  }
  return document.querySelector("#browser .count").textContent;
}"""

PLAYED = """async (video) => {
  for (let i = 0; i < 1000 && video.currentTime < 0.1; i++) await new Promise((done) => setTimeout(done, 50));
  return video.currentTime < 0.1 ? "did not play" : video.videoWidth;
}"""


@pytest.fixture(scope="module")
def small(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with two of six videos inside."""
    out = tmp_path_factory.mktemp("page")
    first = sorted((study / "eval-full/videos").glob("*.mp4"))
    build(study, out, embed_limit=sum(f.stat().st_size for f in first[:2]))
    return out


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipes, tasks, instructions and failures with texts that attack."""
    folder = tmp_path_factory.mktemp("attacked")
    make_big_study(
        folder, recipes_=3, seeds=2, tasks=HOSTILE, episodes=3, steps=200, labels=HOSTILE[:3], failures=HOSTILE
    )
    build(folder, folder / "report")
    return folder / "report"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough arms and seeds for every part of the page to be folded."""
    folder = tmp_path_factory.mktemp("many")
    make_big_study(folder, recipes_=9, seeds=3, steps=200, videos=True)
    build(folder, folder / "report", embed_limit=20_000)
    return folder / "report"


def url(folder: Path, at: str = "") -> str:
    return (folder / "index.html").as_uri() + at


def test_every_rate_shows_exactly_its_rows(opened: Open, small: Path) -> None:
    page = opened(url(small))
    found = page.eval_on_selector_all(
        "table.main a[href^='#episodes?']",
        """all => all.map(a => [
             a.getAttribute('href'), a.textContent, (a.parentElement.querySelector('.small') || {}).textContent])""",
    )
    assert len(found) == 6 * 4
    for href, rate, counts in found:
        told = page.evaluate(GO, href)
        good, of, percent = re.match(r"(\d+) of (\d+) episodes succeeded: ([\d.]+)%", told).groups()
        assert percent == rate, href
        assert counts in (f"{good}/{of}", None), href
    assert page.locator("#browser tbody tr.episode").count() == 36  # of the last one: the mean of a control


def test_pairs_are_those_of_the_comparison(opened: Open, study: Path, small: Path) -> None:
    page = opened(url(small))
    page.locator("#comparisons tbody tr:has(a)").first.locator("a").nth(3).click()
    told = page.locator("#browser .count")
    first = read_all(study / "comparisons.jsonl", Comparison)[0]
    playwright.expect(told).to_contain_text(f"of {first.only_a} episodes succeeded: 100.0%")
    playwright.expect(told).to_contain_text(f"only this succeeded {first.only_a}, only the other succeeded 0")
    everyone = page.evaluate(GO, links.href(arm="full", control="", against="frozen"))
    assert f"only this succeeded {first.only_a}, only the other succeeded {first.only_b}, both" in everyone
    assert page.locator("#browser tbody tr.episode").first.locator("td").nth(4).text_content()[0] in "✓✗"


def test_filters_stand_in_the_address(opened: Open, small: Path) -> None:
    page = opened(url(small, links.href(arm="full", control="image-blank", task="drawer-open-v3")))
    told = page.locator("#browser .count")
    playwright.expect(told).to_contain_text("of 12 episodes")
    assert page.evaluate("Math.abs(document.getElementById('episodes').getBoundingClientRect().top)") < 700
    page.get_by_label("Outcome").select_option(label="failure")
    playwright.expect(told).to_contain_text("0 of ")
    assert "outcome=failure" in page.url
    copied = page.url
    again = opened(copied)
    assert again.locator("#browser .count").text_content() == told.text_content()
    page.get_by_role("button", name="Show all").click()
    playwright.expect(told).to_contain_text("of 372 episodes")
    page.get_by_role("button", name="Next").click()
    playwright.expect(page.locator("#browser .pager")).to_contain_text("Page 2 of 8")
    page.get_by_label("Text", exact=True).fill("open the drawer")
    playwright.expect(told).to_contain_text("of 124 episodes")
    assert again.evaluate(GO, links.href(arm="nobody")) == "No episode fits these filters."


def test_sorting(opened: Open, small: Path) -> None:
    page = opened(url(small, links.href(arm="full", control="")))
    for expected in (1, -1):
        page.locator("#browser th button", has_text="Steps").click()
        steps = [int(t) for t in page.locator("#browser tbody td:nth-child(5)").all_text_contents()]
        assert steps == sorted(steps, reverse=expected < 0) and len(steps) == 50


def test_an_episode_with_its_video(opened: Open, small: Path) -> None:
    """One from the grid, and one that lies beside the page."""
    page = opened(url(small))
    for arm in ("full", "frozen"):
        page.evaluate(GO, links.href(arm=arm, control="", task="window-close-v3"))
        page.get_by_role("button", name="Play the video").click()
        video = page.locator(".detail video")
        assert video.evaluate(PLAYED) == 96
        playwright.expect(page.locator(".detail")).to_contain_text("close the window")
        playwright.expect(page.locator(".detail")).to_contain_text(f"eval-{arm}/rows.jsonl")


def test_nothing_recorded_is_run(opened: Open, attacked: Path) -> None:
    page = opened(url(attacked, "#episodes"))
    cells: set[str] = set()
    for task in HOSTILE:
        told = page.evaluate(GO, links.href(task=task))
        assert re.match(r"\d+ of \d+ episodes", told), told
        cells |= set(page.locator("#browser tbody td").all_text_contents())
        page.locator("#browser tbody td button").first.click()
        assert task in page.locator(".detail dd").all_text_contents()
    assert set(HOSTILE) <= cells
    for box in page.locator("#browser label:not([hidden]) select").all():
        for at in range(box.locator("option").count()):
            box.select_option(index=at)
        box.select_option(index=0)
    assert {HOSTILE[0], HOSTILE[1]} <= set(page.locator("#recipes tbody th").all_text_contents())
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x]").count() == 0 and page.evaluate("({}).polluted") is None
    assert page.locator("script").count() == 3


def test_even_injected_markup_would_not_run(browser: "playwright.Browser", attacked: Path, tmp_path: Path) -> None:
    text = (attacked / "index.html").read_text()
    injected = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'><b onclick='hacked = 3'>b</b>"
    (tmp_path / "index.html").write_text(text.replace("<main>", f"<main>{injected}"))
    page = browser.new_page()
    blocked: list[str] = []
    page.on("console", lambda message: blocked.append(message.text))
    page.goto(url(tmp_path))
    page.locator("main > b").click()
    assert page.evaluate("window.hacked") is None and "Content Security Policy" in " ".join(blocked)
    assert page.locator("#browser .count").text_content()  # ours runs
    page.close()


def test_many_arms_are_folded_and_filtered(opened: Open, many: Path) -> None:
    page = opened(url(many))
    folded = page.locator("#results details")
    assert folded.count() == 2 and not folded.first.locator("table").is_visible()
    folded.first.locator("summary").click()
    folded.first.get_by_role("searchbox").fill("vlm 03, 2B, seed 2")
    playwright.expect(folded.first.locator("tbody tr.arm:visible")).to_have_count(1)
    playwright.expect(folded.first).to_contain_text("1 of 27 rows")
    data = json.loads(page.locator("#episode-data").text_content())
    assert len(data["columns"]["line"]) == 27 * 50 + 80
    told = page.evaluate(GO, page.locator("#recipes td a").first.get_attribute("href"))
    assert "of 120 episodes" in told and page.locator("#recipes td a").first.text_content() in told
    page.evaluate(GO, links.href(arm="vlm08-s2", control=""))
    page.get_by_role("button", name="Play the video").first.click()
    assert page.locator(".detail video").evaluate(PLAYED) == 96
    assert page.locator(".detail video").evaluate("v => v.src").startswith("file:")


def test_chains_are_counted_as_the_tables_have_them(opened: Open, tmp_path: Path) -> None:
    folder = make_big_study(tmp_path, recipes_=2, seeds=2, tasks=("chain",), episodes=12, steps=200, chain=5)
    build(folder, folder / "report")
    page = opened(url(folder / "report"))
    average = page.locator("table.main tr.arm td.mean a").first
    told = page.evaluate(GO, average.get_attribute("href"))
    assert f"Subtasks in a row: {average.text_content()} on average" in told
    reached = page.locator("[aria-label='Subtasks in a row'] tr:has(th:text('VLM 00'))").first.locator(".small")
    counts = [text.split("/")[0] for text in reached.all_text_contents()]
    assert len(counts) == 5 and f"at least {', '.join(f'{k}: {n}' for k, n in enumerate(counts, 1))}" in told
    for c in read_all(folder / "comparisons.jsonl", Comparison):
        if c.estimand == "E2" and c.b == "do-nothing":
            told = page.evaluate(GO, links.href(arm=c.a, control="", against=c.b))
            assert f"this got further {c.only_a}, the other got further {c.only_b}" in told


def test_without_a_script_the_numbers_are_there(browser: "playwright.Browser", small: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(url(small))
    text = page.locator("body").inner_text()
    assert "drawn by a script of this page, which does not run here" in text and "66 of 75 episodes" in text
    page.locator("#episodes summary").click()
    assert "eval-full/rows.jsonl" in page.locator("#episodes").inner_text()
    context.close()
