"""Sheets of an episode: what they hold, that texts are escaped, and how they look in a browser."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from moving_data import SPEC, Memory, moving_episode, moving_store
from PIL import Image

from vlm4vla.cli.main import main
from vlm4vla.data import inspect, sheet
from vlm4vla.data.build import build
from vlm4vla.types import UserError

CHROMIUM = shutil.which("chromium")
EVIL = "<script>alert('1')</script> & \"cup\""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return moving_store(tmp_path_factory.mktemp("sheet") / "store", lambda e: replace(e, instruction=EVIL, task=EVIL))


def test_the_html_sheet_holds_everything_once(store):
    page = sheet.html(store, store.episodes[3])
    pictures = re.findall(r'alt="(\w+), frame (\d+)" src="data:image/jpeg;base64,([^"]+)"', page)
    assert [p[0] for p in pictures] == ["front"] * 24 + ["wrist"] * 24
    frames = [int(p[1]) for p in pictures[:24]]
    assert frames[0] == 0 and frames[-1] == 59 and frames == sorted(set(frames))
    start = store.episodes[3].start
    for camera, frame, data in pictures[::11]:
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert np.abs(shown.astype(int) - store.image(start + int(frame), camera)).mean() < 3
    for name in [d.name for d in SPEC.dimensions] + list(store.state_names):
        assert page.count(f'<div class="name"><b>{name}</b>') == 1
    rows = re.findall(r"<tr><td>(\d+)</td>(.*?)</tr>", page)
    assert [int(r[0]) for r in rows] == list(range(60))
    numbers = np.array([[float(x) for x in re.findall(r"<td>(.*?)</td>", r[1])] for r in rows])
    expected = np.concatenate([store.actions, store.states], axis=1)[start : start + 60]
    assert np.allclose(numbers, expected, rtol=1e-4, atol=1e-6)


def test_texts_are_escaped_and_nothing_is_loaded(store):
    page = sheet.html(store, store.episodes[0])
    assert "<script" not in page and "&lt;script&gt;alert(&#x27;1&#x27;)" in page and "default-src 'none'" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)


def test_traces_are_true_to_scale(store):
    """The line of dx read back from its drawing is dx."""
    e = store.episodes[1]
    page = sheet.html(store, e)
    path = re.search(r'aria-label="dx from.*?class="value" d="M([^"]+)"', page, re.DOTALL)[1]
    points = np.array([[float(x) for x in p.split()] for p in path.split("L")])
    values = store.actions[e.start : e.stop, 0].astype(float)
    scaled = (values.max() - values) / np.ptp(values) * 52 + 6
    assert np.allclose(points[:, 0], np.arange(60) / 59 * 1000, atol=0.06)
    assert np.allclose(points[:, 1], scaled, atol=0.06)
    bands = re.findall(r'<rect class="(open|closed)" x="([\d.]+)"', page)
    assert [b[0] for b in bands] == ["open", "closed", "open"] and float(bands[1][1]) == round(30 / 59 * 1000, 1)


def test_odd_episodes_have_a_sheet_as_well(tmp_path):
    short = replace(moving_episode(0, 1), instruction="")
    holes = moving_episode(1, 12)
    holes.actions[4, 0] = np.nan
    holes.actions[:, 1] = 0.25
    found = build(Memory([short, holes]), tmp_path, 32, "png")
    assert "(no instruction)" in sheet.html(found, found.episodes[0])
    page = sheet.html(found, found.episodes[1])
    line = re.search(r'aria-label="dx from.*?class="value" d="([^"]+)"', page, re.DOTALL)[1]
    assert line.count("M") == 2 and "nan" not in line  # a gap, not a bridge
    assert "<span>constant</span><span>0.25</span>" in page


def test_command_line(store, tmp_path, capsys):
    for name in ("a/b.html", "a/b.png"):
        assert main(["data", "show", str(store.path), "--episode", "2", "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "a/b.html").read_text().startswith("<!doctype html>")
    with Image.open(tmp_path / "a/b.png") as png:
        assert png.width > 400
    for words, sentence in ((["--out", "x.pdf"], ".html or .png"), (["--episode", "8", "--out", "x.html"], "0 to 7")):
        assert main(["data", "show", str(store.path), *words]) == 2
        assert sentence in capsys.readouterr().err
    assert main(["data", "stats", str(store.path), "--json", "--png", str(tmp_path / "h.png")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["actions"]["dx"]["median"] == pytest.approx(np.median(store.actions[:, 0]), abs=1e-6)
    with Image.open(tmp_path / "h.png") as png:
        assert png.height > 300 and len(np.unique(np.asarray(png.convert("RGB")))) > 50
    assert main(["data", "stats", str(store.path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 5 + 1 + 1 + 5


def test_statistics_say_null_where_json_has_no_number(tmp_path):
    free = replace(SPEC, dimensions=(replace(SPEC.dimensions[0], low=-np.inf, high=np.inf), *SPEC.dimensions[1:]))
    found = inspect.stats(build(Memory([moving_episode(0, 9)], free), tmp_path, 32, "png"))
    assert found["actions"]["dx"]["low"] is None and found["actions"]["dy"]["low"] == -0.1
    assert set(found["states"]["x_m"]) == {"min", "q01", "q25", "median", "q75", "q99", "max", "mean", "std"}
    json.dumps(found, allow_nan=False)
    assert re.search(r"^dx .* -  +-$", inspect.table(found), re.MULTILINE)


def test_an_episode_that_is_not_there_is_refused(store):
    with pytest.raises(UserError, match="0 to 7"):
        inspect.entry_of(store, -1)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium")
@pytest.mark.parametrize("width", [1200, 390])
def test_in_a_browser(store, tmp_path, width):
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright (in the dev extra)")
    sheet.write_html(store, 5, tmp_path / "sheet.html")
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    faults: list[str] = []
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda message: faults.append(message.text))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else faults.append(r.url))
        page.goto((tmp_path / "sheet.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out
        assert page.locator("h1").inner_text() == EVIL
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth == 32)")
        assert all(box["width"] > 150 for box in (t.bounding_box() for t in page.locator(".trace svg").all()))
        assert not page.locator("table").is_visible()
        page.locator("summary").click()
        assert page.locator("tbody tr").count() == 60 and page.locator("table").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
    assert not faults, faults
