"""The shipped numbers of the paper: strict loading, recovered counts, consistency between tables, the rebuilt page."""

import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm4vla import published as data
from vlm4vla.cli.main import main
from vlm4vla.report import published as page
from vlm4vla.report import tables
from vlm4vla.report.tables import Cell, PrintTable, Row
from vlm4vla.study import published
from vlm4vla.types import UserError

TASKS = (24, 24, 24, 24)
HOSTILE = '<img src=x onerror=alert(1)> & \\input{/etc/passwd} $x_1$ 100% | **b** "q"'


def counts(table: str, column: str) -> dict[str, tuple[int | None, str | None]]:
    found = ((row.key, number) for row, c, number in data.load(table).numbers() if c.key == column)
    return {key: (number.successes, number.averaging) for key, number in found}


def test_every_rate_of_the_main_table_is_its_count() -> None:
    assert counts("main", "simpler") == {
        "qwen2.5vl-3b": (46, "quarter"), "qwen2.5vl-7b": (45, "count"), "qwen3vl-2b": (47, "count"),
        "qwen3vl-4b": (54, "count"), "qwen3vl-8b": (56, "count"), "qwen3vl-30b-a3b": (43, "count"),
        "paligemma-1": (53, "quarter"), "paligemma-2": (55, "count"), "kosmos-2": (58, "count"),
        "internvl3.5-4b": (55, "count"), "openvla": (4, "count"), "pi0": (58, "count"),
    }  # fmt: skip
    libero = counts("main", "libero")
    assert libero["kosmos-2"] == (275, "count") and libero["qwen3vl-2b"] == (279, "count")
    assert {key for key, (k, _) in libero.items() if k is None} == {"openvla", "thinkact"}


def test_other_averages_are_named_or_called_unexplained() -> None:
    assert counts("freezing", "simpler") == {
        "qwen2.5vl-3b": (46, "quarter"), "qwen2.5vl-3b-vision": (23, "cut"), "qwen2.5vl-3b-word": (45, "count"),
        "qwen2.5vl-7b": (45, "quarter"), "qwen2.5vl-7b-vision": (24, "quarter"), "qwen2.5vl-7b-word": (47, "count"),
        "paligemma-1": (53, "quarter"), "paligemma-1-vision": (13, "quarter"), "paligemma-1-word": (50, "quarter"),
    }  # fmt: skip
    assert counts("scratch", "simpler")["qwen2.5vl-7b-scratch"] == (None, "unexplained")
    assert [k for k, _ in counts("fast", "frozen").values()] == [None] * 3  # 27.6, 28.0, 45.7
    assert [k for k, _ in counts("fast", "trained").values()] == [54, 54, 57]


@given(st.lists(st.integers(0, 24), min_size=4, max_size=4), st.integers(1, 2))
def test_a_printed_count_is_found_again(k: list[int], decimals: int) -> None:
    def rounded(value: Decimal, places: int) -> Decimal:
        return value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)

    printed = str(rounded(Decimal(100 * sum(k)) / 96, decimals))
    assert data.recover(printed, 96, strata=TASKS) == (sum(k), "count")
    mean = rounded(sum((rounded(Decimal(100 * x) / 24, 0) for x in k), Decimal(0)) / 4, 2)
    assert data.recover(str(mean), 96, strata=TASKS)[0] == sum(k)


def test_what_is_no_count_is_not_made_one() -> None:
    possible = {f"{100 * k / 96:.2f}" for k in range(97)}
    found = [data.recover(f"{v / 100:.2f}", 96, strata=()) for v in range(10001)]
    assert sum(k is not None for k, _ in found) <= 2 * len(possible)  # rounded or cut, nothing else
    assert data.recover("28.0", 96, strata=TASKS) == (None, "unexplained")
    assert data.recover("28.00", 96, strata=TASKS) == (27, "quarter")
    assert data.recover("53.7", 500) == (None, "unexplained") and data.recover("0.417", 24, scale=1) == (10, "count")


def test_every_number_has_a_source_a_place_and_a_kind() -> None:
    seen = 0
    for name in data.TABLES:
        for _, _, number in data.load(name).numbers():
            assert number.place and number.source in data.sources()
            assert (number.error is None) == (number.kind == "exact")
            seen += 1
    assert seen > 200
    kinds = {number.kind for name in data.TABLES for _, _, number in data.load(name).numbers()}
    assert kinds == {"exact", "digitised", "recovered"}


def test_tables_agree_with_each_other() -> None:
    """The same run stands in several tables; sizes also stand in the file of the parameter counts."""
    main_table, models = data.load("main"), json.loads((data.FOLDER / "models.json").read_text())["rows"]
    sizes = {r.label: float(r.cells["size"].printed) for r in main_table.rows if "size" in r.cells}
    assert {m["model"]: m["total"] for m in models}.items() <= sizes.items()
    for name in ("freezing", "scratch"):
        for row in data.load(name).rows:
            if row.baseline is None:
                same = main_table.row(row.key)
                assert row.group == same.label and row.cells["calvin"].printed == same.cells["calvin"].printed
                difference = float(row.cells["simpler"].printed) - float(same.cells["simpler"].printed)
                assert abs(difference) <= 0.16  # 46.75 in one, 46.9 in the other
    for row in data.load("freezing").rows:
        (model,) = [m for m in models if m["model"] == row.group]
        key = {"all trained": "total", "vision frozen": "frozen_vision"}.get(row.label, "frozen_embedding")
        assert float(row.cells["trained"].printed) == model[key]
    for row in data.load("auxiliary").rows:
        rates = [float(row.cells[str(i)].printed) for i in range(1, 6)]
        assert rates == sorted(rates, reverse=True)
        low, middle, high = (float(row.cells[key].printed) for key in ("least", "length", "largest"))
        assert low <= middle <= high
        assert low - 0.01 <= sum(rates) / 5 <= high + 0.01  # a mean of medians lies among the checkpoints' lengths


def test_differences_are_recomputed_and_agree_with_the_printed_ones() -> None:
    found = {
        (name, row.key, column.key): published.difference(data.load(name), row, column)
        for name in ("freezing", "fast")
        for row in data.load(name).rows
        for column in data.load(name).columns
        if row.baseline and column.delta
    }
    assert len(found) == 16
    assert [d["agrees"] for d in found.values() if d and d["agrees"] is not None] == [True] * 4
    vision = found["freezing", "paligemma-1-vision", "calvin"]
    assert vision is not None and str(vision["difference"]) == "-3.011" and round(vision["relative"]) == -86
    fast = found["fast", "fast-trained", "trained"]
    assert fast is not None and str(fast["difference"]) == "3.1" and fast["low"] < 0 < fast["high"]
    cost = found["freezing", "qwen2.5vl-3b-vision", "simpler"]
    assert cost is not None and (round(cost["relative"]), cost["high"] < 0) == (-50, True)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t["rows"][0].update(colour="red"), "Unknown setting"),
        (lambda t: t["rows"][0]["cells"].update(simpler="4x.2"), "String should match pattern"),
        (lambda t: t["rows"][0]["cells"].update(simpler=48.0), "valid dictionary"),
        (lambda t: t["rows"][0]["cells"].update(smpler="48.0"), "unknown columns: smpler"),
        (lambda t: t["rows"][0]["cells"].update(simpler={"printed": "48.0", "exactly": "48.10"}), "48.10 is not 48.0"),
        (
            lambda t: t["rows"][0]["cells"].update(simpler={"printed": "1", "kind": "digitised"}),
            "digitised with an err",
        ),
        (lambda t: t["rows"][0]["cells"].update(simpler={"printed": "1", "error": 0.1}), "exact with an error of 0.1"),
        (lambda t: t["rows"][0]["cells"].update(simpler={"printed": "1", "delta": "+1"}), "without a baseline"),
        (lambda t: t["rows"][0].update(baseline="nobody"), "there is no row 'nobody'"),
        (lambda t: t["rows"].append(t["rows"][0]), "a row is there twice"),
        (lambda t: t["columns"][2].update(strata=[24, 24]), "strata add up to 48"),
        (lambda t: t["columns"][1].update(error_note=""), "belong together"),
        (lambda t: t["rows"][0].update(source="hearsay"), "unknown source 'hearsay'"),
        (lambda t: t.update(kind="guessed"), "'exact', 'digitised' or 'recovered'"),
        (lambda t: t.pop("estimand"), "'estimand' is missing"),
    ],
)
def test_a_fault_in_a_file_is_refused(change: object, sentence: str, tmp_path: Path) -> None:
    shutil.copy(data.FOLDER / "sources.json", tmp_path)
    table = json.loads((data.FOLDER / "main.json").read_text())
    change(table)  # type: ignore[operator]
    (tmp_path / "main.json").write_text(json.dumps(table))
    with pytest.raises(UserError) as told:
        data.load("main", tmp_path)
    assert sentence in str(told.value)


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'freezing'"):
        data.load("freezin")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("published")
    assert main(["study", "published", "--out", str(out)]) == 0
    return out


class Tags(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, text: str) -> None:
        self.text += text


def harmless(text: str) -> Tags:
    read = Tags(text)
    assert not {tag for tag, _ in read.tags} & {"script", "img", "iframe", "object"}
    for _, attributes in read.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    return read


def test_the_page_holds_the_numbers_and_nothing_leaves_it(built: Path) -> None:
    read = harmless((built / "index.html").read_text())
    shown = re.sub(r"\s+", " ", read.text)
    for piece in (
        "Neither a correlation nor its absence is shown", "58/96, 50 to 70%", "−3.011", "as printed", "0.39 to 0.97",
        "averaging not explained", "E1, this checkpoint on this list of starts", "Seeds: one training run",
        "second hand",
    ):  # fmt: skip
        assert piece in shown, piece
    ids = {a["id"] for _, a in read.tags if "id" in a}
    assert {f"table-{name}" for name in data.TABLES} <= ids
    markdown = (built / "published.md").read_text()
    assert "58/96, 50 to 70%" in markdown and "### CALVIN" in markdown
    for line in markdown.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


def test_every_table_comes_in_latex_and_csv(built: Path) -> None:
    for name in (*data.TABLES, "correlations", "agreement-summary"):
        text = (built / "tables" / f"{name}.tex").read_text()
        well_formed(text)
        rows = list(csv.DictReader(io.StringIO((built / "tables" / f"{name}.csv").read_text())))
        assert rows and None not in rows[0]
    rows = list(csv.DictReader((built / "tables/main.csv").open()))
    (kosmos,) = [r for r in rows if (r["row"], r["column"]) == ("kosmos-2", "simpler")]
    assert (kosmos["printed"], kosmos["successes"], kosmos["trials"], kosmos["place"]) == (
        "60.4", "58", "96", "Tables 1 and 2",
    )  # fmt: skip


def well_formed(text: str) -> None:
    """Braces balance, begin and end match, and each row has as many cells as there are columns."""
    bare = re.sub(r"\\[\\{}&%$#_]", lambda m: "\n" if m[0] == "\\\\" else "", text)
    assert bare.count("{") == bare.count("}")
    assert re.findall(r"\\begin{([a-z*]+)}", text) == re.findall(r"\\end{([a-z*]+)}", text)[::-1]
    (columns,) = re.findall(r"\\begin{tabular}{(l r*|lr*)}", text)
    for line in bare.splitlines():
        if "&" in line:
            assert line.count("&") == len(columns) - 1, line


def test_figures_are_vector_files_at_column_width(built: Path) -> None:
    for name, inches in (("correlation", 3.35), ("correlation-wide", 6.9)):
        root = ElementTree.parse(built / "figures" / f"{name}.svg").getroot()
        assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(72 * inches, abs=0.5)
        pdf = (built / "figures" / f"{name}.pdf").read_bytes()
        (box,) = re.findall(rb"/MediaBox \[ ?0 0 ([\d.]+) ", pdf)
        assert pdf.startswith(b"%PDF-") and float(box) == pytest.approx(72 * inches, abs=0.5)


def test_the_same_numbers_give_the_same_bytes(built: Path, tmp_path: Path) -> None:
    published.build(tmp_path)
    first = {f.relative_to(built): f.read_bytes() for f in built.rglob("*") if f.is_file()}
    assert first == {f.relative_to(tmp_path): f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    """Names, captions and sources are escaped in every notation."""
    row = Row(HOSTILE, HOSTILE, (Cell(HOSTILE, HOSTILE, "q", HOSTILE), None))
    table = PrintTable("x", HOSTILE, HOSTILE, (HOSTILE, "b"), (row,), ({"label": HOSTILE},))
    found = tuple(
        c.model_copy(update={"benchmark": HOSTILE, "scores": HOSTILE, "unit": HOSTILE, "notes": (HOSTILE,)})
        for c in published.correlations()[:1]
    )
    page.build(page.Page(HOSTILE, (HOSTILE,), HOSTILE, (table,), found, ((HOSTILE, HOSTILE, HOSTILE),)), tmp_path)
    read = harmless((tmp_path / "index.html").read_text())
    assert read.text.count("<img src=x onerror=alert(1)>") > 10
    markdown = (tmp_path / "published.md").read_text()
    assert "<img" not in markdown and "**b**" not in markdown
    latex = (tmp_path / "tables/x.tex").read_text()
    well_formed(latex)
    assert "\\input" not in latex and "100\\%" in latex and "x\\_1" in latex
    assert next(csv.DictReader((tmp_path / "tables/x.csv").open()))["label"] == HOSTILE
    for file in (tmp_path / "figures").glob("*.svg"):
        assert not [e for e in ElementTree.parse(file).getroot().iter() if e.tag.endswith(("img", "script"))]


@pytest.mark.parametrize("text", ["a\\\\[2em]", "~^{}", "50% & 3 < 4", "−0.5 – x"])
def test_latex_escapes(text: str) -> None:
    escaped = tables.latex(text)
    assert not re.search(r"(?<!\\)[%&#_]", escaped) and "\\\\" not in escaped.replace("\\textbackslash{}", "")


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright (in the dev extra)")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the PATH: apt-get install chromium")
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with playwright.sync_playwright() as runner:
        found = runner.chromium.launch(executable_path=chromium, args=arguments)
        yield found
        found.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_in_a_browser(browser: object, built: Path, width: int) -> None:
    faults: list[str] = []
    opened = browser.new_page(viewport={"width": width, "height": 900})  # type: ignore[attr-defined]
    opened.on("console", lambda message: faults.append(message.text))
    opened.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else faults.append(r.url))
    opened.goto((built / "index.html").as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    wide = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert (opened.evaluate(wide) == 0) == (width > 1000)  # on a desktop no table has to be scrolled
    shown = "wide" if width > 1000 else "narrow"
    box = opened.locator(f"#figure-correlation .{shown} svg").bounding_box()
    assert box is not None and box["width"] > 300 and box["height"] > 200
    opened.close()
    assert not faults, faults
