"""The page and the Markdown file: contents, hostile strings, embedding, missing pieces, determinism."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree

import numpy as np
import pytest
from synthetic_study import TASKS, make_study

from vlm4vla.report import figures, learning_figure
from vlm4vla.report.build import build
from vlm4vla.report.folder import load

VOID = {"meta", "link", "br", "wbr", "img", "input", "hr"}


class Page(HTMLParser):
    """Tags, ids, links and text of a page; fails on tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.scripts[-1] += data
        elif "style" not in self.open:
            self.text += data

    @property
    def data(self) -> dict[str, Any]:
        """What the episode browser gets."""
        at = [a.get("id") for a in self.all("script")].index("episode-data")
        found: dict[str, Any] = json.loads(self.scripts[at])
        return found

    def rows_of(self, link: str) -> list[int]:
        """The successes (0 or 1) of the rows that a link to the episode browser shows, counted from the page's data."""
        wanted = dict(parse_qsl(link.split("?", 1)[1], keep_blank_values=True))
        data, columns = self.data, self.data["columns"]
        found = []
        for line, task, success in zip(columns["line"], columns["task"], columns["success"], strict=True):
            of = data["lines"][line] | {"task": data["tasks"][task][0]}
            of["control"] = of["control"] or ""
            if all(of[key] == value for key, value in wanted.items()):
                found.append(success)
        return found

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def built(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    result = build(study, out)
    assert result["figures"] == ["success", "comparisons", "learning"]
    assert (result["videos_embedded"], result["videos_copied"], result["rows"]) == (6, 0, 372)
    assert result["bytes"] == (out / "index.html").stat().st_size
    return out


@pytest.fixture(scope="module")
def page(built: Path) -> Page:
    return Page((built / "index.html").read_text())


def test_the_answer_comes_first_with_its_limits(page: Page) -> None:
    order = [
        "Does the vision encoder have to be trained?",
        "What differs between the arms: the vision encoder is trained, or stays at its random start.",
        "Full fine-tuning did better than Vision frozen (+44.0 points, 95% interval ",
        "with one training run on either side it says nothing about retraining",
        "Comparisons with the floor and a policy's own controls are about single checkpoints",
        "Full fine-tuning succeeded in 66 of 75 episodes: 88.0% (95% interval 78.7 to 93.6%).",
        "For scale: Do nothing succeeded in 0 of 75 episodes",
        "For scale: Scripted expert succeeded in 75 of 75",
        "For scale: Full fine-tuning did better than do nothing (+88.0 points",
        "Control: Full fine-tuning did better than Full fine-tuning (image-blank)",
        "The audit failed:",
        "A quickstart on a tiny random model",
        "Success rates",
        "Comparisons",
        "Learning curves",
        "Videos",
        "Parameters",
        "Audit",
        "Provenance",
        "vlm4vla study run studies/freezing.yaml --out runs/freezing",
        "Episodes",
    ]
    at = 0
    for piece in order:
        assert piece in page.text[at:], f"{piece!r} is missing or out of order"
        at = page.text.index(piece, at)


def test_nothing_leaves_the_page(page: Page) -> None:
    assert [s.get("type") for s in page.all("script")] == ["application/json", "application/json", None]
    assert not page.all("iframe") and not any("src" in s for s in page.all("script"))
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "poster", "xlink:href"):
                assert value is not None and value.startswith(("data:", "#", "paper/")), (tag, value)
    assert "default-src 'none'" in str(page.all("meta"))


def test_only_our_own_script_and_styles_may_run(built: Path, page: Page) -> None:
    policy = next(a["content"] or "" for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    allowed = dict(part.split(" ", 1) for part in policy.split("; "))
    assert "unsafe" not in allowed["script-src"] and "unsafe" not in allowed["style-src-elem"]
    text = (built / "index.html").read_text()

    def digest(content: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    assert digest(page.scripts[-1]) == allowed["script-src"]
    styles = {digest(found) for found in re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL)}
    assert styles and styles <= set(allowed["style-src-elem"].split())


def test_every_number_leads_to_its_episodes(built: Path, page: Page) -> None:
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"] or "" for a in page.all("a")]
    assert links and all(x[1:] in ids for x in links if x.startswith("#") and not x.startswith("#episodes?"))
    text = (built / "index.html").read_text()
    rates = re.findall(
        r'<a href="(#episodes[?][^"]*)" title="[^"]*">([\d.]+)</a><br><span class="small">(\d+)/(\d+)<', text
    )
    assert len(rates) == 6 * len(TASKS)
    for link, rate, successes, episodes in rates:
        rows = page.rows_of(html.unescape(link))
        assert (sum(rows), len(rows)) == (int(successes), int(episodes))
        assert rate == f"{100 * sum(rows) / len(rows):.1f}"
    means = re.findall(r'mean"><a href="(#episodes[?][^"]*)" title="[^"]*">([\d.]+)</a>', text)
    assert len(means) == 6
    for link, rate in means:
        rows = page.rows_of(html.unescape(link))
        assert rate == f"{100 * sum(rows) / len(rows):.1f}"
    assert len(page.data["columns"]["line"]) == 372


def test_differing_settings_are_red_unless_allowed(built: Path) -> None:
    text = (built / "index.html").read_text()
    faults = re.findall(r'<tr class="fault"><td><code>([^<]*)', text)
    assert faults == ["optimizer.lr"]
    assert re.findall(r'<tr class="(?:factor|declared|allowed)"><td><code>([^<]*)', text) == [
        "freeze",
        "recorded.tokens_per_sample",
        "pretraining data of full",
    ]
    assert "native to the model" in text and text.count("the factor</td>") == 1 and "6 settings are equal" in text


def test_parameters_add_up(built: Path) -> None:
    text = (built / "report.md").read_text().replace("\u202f", "")
    assert "| Vision frozen | all | 3014919 | 2834432 | 180487 | 409600 | 2605319 |" in text
    assert "| Full fine-tuning | all | 3014919 | 2834432 | 180487 | 0 | 3014919 |" in text


def test_provenance(page: Page) -> None:
    for piece in (
        "54e05f4c1b",
        "uncommitted changes",
        "mujoco",
        "3.3.0",
        "OSMesa 24.2",
        "Example GPU",
        "42 min",
        "40 min",
    ):
        assert piece in page.text


def test_videos_are_embedded_whole_with_their_outcome(page: Page, study: Path) -> None:
    videos = page.all("video")
    assert len(videos) == 6
    for video in videos:
        assert {"muted", "loop", "controls", "playsinline"} <= video.keys() and video["preload"] == "metadata"
        assert (video["poster"] or "").startswith("data:image/jpeg;base64,")
    first = base64.b64decode((videos[0]["src"] or "").split(",", 1)[1])
    assert first == (study / "eval-full/videos" / f"{TASKS[0]}-0.mp4").read_bytes()
    assert page.text.count("“press the button from above”") == 2


def test_markdown(built: Path) -> None:
    text = (built / "report.md").read_text()
    assert "**Full fine-tuning did better than Vision frozen (+44.0 points" in text
    link = "index.html#episodes?arm=full&amp;control=&amp;task=button-press-topdown-v3"
    assert f"| **Full fine-tuning** | [96.0]({link}) (24/25) |" in text
    assert "78.7 to 93.6 | 75 | E2 |" in text
    for name in re.findall(r"\]\((figures/[^)]*)\)", text):
        assert (built / name).is_file()
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


def test_figures_are_files_and_well_formed(built: Path) -> None:
    for name in ("success", "comparisons", "learning"):
        root = ElementTree.fromstring((built / f"figures/{name}.svg").read_text())
        assert root.tag.endswith("svg") and root.attrib["viewBox"] and "width" not in root.attrib
        assert (built / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_same_records_same_bytes(study: Path, built: Path, tmp_path: Path) -> None:
    build(study, tmp_path)

    def digests(folder: Path) -> dict[str, str]:
        files = sorted(f for f in folder.rglob("*") if f.is_file())
        return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    assert digests(tmp_path) == digests(built)


def test_beyond_the_limit_videos_lie_beside_the_page(study: Path, tmp_path: Path) -> None:
    fitting = 2
    sizes = [(study / "eval-full/videos" / f"{t}-0.mp4").stat().st_size for t in TASKS]
    result = build(study, tmp_path, embed_limit=sum(sizes[:fitting]))
    assert (result["videos_embedded"], result["videos_copied"]) == (fitting, 6 - fitting)
    sources = [v["src"] or "" for v in Page((tmp_path / "index.html").read_text()).all("video")]
    relative = [s for s in sources if not s.startswith("data:")]
    assert len(relative) == 6 - fitting
    for source in relative:
        assert re.fullmatch(r"videos/[0-9a-f]{16}\.mp4", source) and (tmp_path / source).is_file()


def test_broken_videos_are_said_and_hostile_captions_stay_text(study: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(study, tmp_path / "study")
    (copy / f"eval-full/videos/{TASKS[0]}-0.mp4").unlink()
    (copy / f"eval-frozen/videos/{TASKS[0]}-0.mp4").write_bytes(b"not a video")
    text = (copy / "study.json").read_text().replace("open the drawer", "<b onclick=x>open</b>")
    (copy / "study.json").write_text(text.replace("Vision frozen", "</td><script>"))
    result = build(copy, tmp_path / "out")
    page = Page((tmp_path / "out/index.html").read_text())
    assert result["videos_embedded"] == 4
    assert "The video file is missing." in page.text and "The video file cannot be decoded." in page.text
    assert len(page.all("script")) == 3 and page.text.count("“<b onclick=x>open</b>”") == 2
    assert page.data["tasks"][1] == ["drawer-open-v3", "<b onclick=x>open</b>"]
    assert page.data["videos"].count("") == 2


@pytest.mark.parametrize("left_out", [("videos", "audit"), ("training", "compared")])
def test_optional_pieces_may_be_absent(tmp_path: Path, left_out: tuple[str, ...]) -> None:
    build(make_study(tmp_path / "study", episodes=4, **dict.fromkeys(left_out, False)), tmp_path / "out")
    page = Page((tmp_path / "out/index.html").read_text())
    gone = {"videos": "Stills show", "training": "Learning curves", "audit": "Declared factor", "compared": "McNemar"}
    for piece, words in gone.items():
        assert (words in page.text) == (piece not in left_out), piece
    ids = [a["id"] for _, a in page.tags if "id" in a]
    links = [a["href"] or "" for a in page.all("a")]
    assert all(x[1:] in ids for x in links if x.startswith("#") and not x.startswith("#episodes?"))
    if "audit" in left_out:
        assert "nothing here shows that the arms differ in the declared factor alone" in page.text


HOSTILE = (
    '<script>alert("x")</script>',
    "a|b`c*d_e $\\frac{1}$ [x](javascript:alert(1))",
    '"><img src=x onerror=alert(1)>\n\n# heading',
    "</script><script>alert(1)</script>{{ 7 * 7 }}{% raw %}",
    "__proto__ \u202eright to left\u2028 " + "long" * 60,
)


def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    # file names are made from task names by the evaluation, so the fixture leaves videos out
    study = make_study(tmp_path / "study", tasks=HOSTILE, sentences=HOSTILE, episodes=4, videos=False)
    build(study, tmp_path / "out")
    text = (tmp_path / "out/index.html").read_text()
    page = Page(text)
    assert len(page.all("script")) == 3 and not [a for a in page.all("img") if a["src"] == "x"]
    assert all("onerror" not in a for _, a in page.tags)
    assert all(task in page.text for task in HOSTILE)
    assert [task for task, _ in page.data["tasks"]] == list(HOSTILE)
    assert "49" not in {cell.strip() for cell in re.findall(r">([^<]*)<", text)}
    assert "<!--" not in text  # matplotlib repeats texts in comments
    markdown = (tmp_path / "out/report.md").read_text()
    assert "<script" not in markdown and "<img" not in markdown and "\n# heading" not in markdown
    assert "](javascript:" not in markdown.replace("\\]", "")
    for block in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block
    for svg in (tmp_path / "out/figures").glob("*.svg"):
        root = ElementTree.fromstring(svg.read_text())
        assert not [e for e in root.iter() if e.tag.endswith(("script", "foreignObject", "image"))]


def test_running_mean_survives_infinities() -> None:
    value = np.ones(200)
    value[50] = np.inf
    value[120:140] = np.nan
    mean = learning_figure.running_mean(value)
    assert mean[50] == 1 and np.isnan(mean[130]) and mean.shape == (200,)
    assert learning_figure.running_mean(np.array([3.0])) == [3.0]


def test_long_names_do_not_break_the_figures(tmp_path: Path) -> None:
    tasks = tuple(f"task-{'very-' * 12}long-{i}" for i in range(6))
    study = make_study(tmp_path / "study", tasks=tasks, sentences=tasks, episodes=2, videos=False)
    drawing = figures.success(load(study))
    box = ElementTree.fromstring(drawing.wide).attrib["viewBox"].split()
    assert float(box[2]) == pytest.approx(72 * figures.WIDE, abs=1)


def test_a_report_needs_no_torch() -> None:
    code = "import sys, vlm4vla.report.build; sys.exit(int('torch' in sys.modules or 'transformers' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
