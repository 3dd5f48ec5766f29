"""Tables for print: numbers that rows bear out, published values apart and only where they belong, no injection."""

import json
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
from print_study import make
from print_written import Written

from vlm4vla import published
from vlm4vla.report import build, folder
from vlm4vla.report.paper import main_table, matching, source
from vlm4vla.report.paper.output import to_csv
from vlm4vla.report.paper.write import write
from vlm4vla.report.tables import harmless, latex

Get = Callable[[str], Written]
SIMPLER = ("put-carrot-on-plate", "stack-green-on-yellow", "put-spoon-on-towel", "put-eggplant-in-basket")
HOSTILE = (
    r"\input{/etc/passwd}\\[9cm]%&$#_^~{}",
    '=HYPERLINK("http://x","y")',
    "</svg><script>alert(1)</script>",
    "*| [a](javascript:x) `b` -->",
)


def test_rates_are_those_of_the_rows_and_letters_those_of_the_tests(written: Get) -> None:
    of = written("main")
    lines = of.csv("main-table")
    means = {x["arm"]: x for x in lines if x["task"] == ""}
    assert len(lines) == 4 * 5
    for line in lines:
        assert float(line["rate"]) == pytest.approx(of.rate(line["arm"], line["task"] or None))
        assert int(line["episodes"]) == (60 if line["task"] else 240) and line["estimand"] == "E3"
    apart = {frozenset((x["a"], x["b"])) for x in of.csv("forest") if float(x["p_value"]) <= 0.05}
    for a, b in combinations(means, 2):
        shared = set(means[a]["letters"]) & set(means[b]["letters"])
        assert bool(shared) != (frozenset((a, b)) in apart)
    best = max(means, key=of.rate)
    rows = [x for x in of.text("main-table", "tex").splitlines() if x.endswith(r"\\")]
    low, high = (100 * float(means[best][key]) for key in ("low", "high"))
    assert (
        f"{100 * of.rate(best):.1f} {{\\scriptsize {low:.1f} to {high:.1f}}} & {means[best]['letters']} & 3 & 240"
        in rows[1]
    )


def test_published_values_stand_beside_the_same_checkpoint_alone(tmp_path: Path) -> None:
    checkpoints = ("Qwen/Qwen2.5-VL-3B-Instruct", "google/paligemma-3b-pt-224", "somebody/else")
    common = {"labels": ("A", "B", "C"), "tasks": SIMPLER, "starts": 6, "seeds": 2, "benchmark": "simpler-bridge-v1"}
    where = make(tmp_path / "same", checkpoints=checkpoints, **common)
    of = Written(where, write(folder.load(where), where, where / "report"))
    shown = {x["arm"]: x["published"] for x in of.csv("main-table") if x["task"] == ""}
    table = published.load("main")
    expected = [table.row(key).cells["simpler"].printed for key in ("qwen2.5vl-3b", "paligemma-1")]
    assert shown == {"a0": expected[0], "a1": expected[1], "a2": ""}
    tex = of.text("main-table", "tex")
    assert rf"\textcolor{{gray}}{{{expected[0]}}}" in tex and tex.count("textcolor") == 2
    assert f"*{expected[1]}*" in of.text("main-table", "md")
    assert "Grey: as published (percent), one training run, the best of several" in of.text("main-table", "caption.txt")
    assert rf"\textcolor{{gray}}{{{table.row('paligemma-1').cells['size'].printed}}}" in of.text("parameters", "tex")

    assets = {"assets": "3 visual stand-ins: not comparable with published results"}
    changes = [("assets", {"versions": assets}), ("tasks", {"tasks": SIMPLER[:3]}), ("tiny", {"checkpoints": ()})]
    changes.append(("version", {"benchmark": "simpler-bridge-v1+ever"}))
    words = {"assets": "visual stand-ins", "tiny": "no arm trains a checkpoint of the paper"}
    for name, change in changes:
        where = make(tmp_path / name, **({"checkpoints": checkpoints} | common | {"starts": 4} | change))
        made = main_table.make(source.read(folder.load(where), where))
        assert "Published" not in made.columns and not any("published" in line for line in made.plain)
        assert "No published value is put beside" in made.caption
        assert words.get(name, "none for this benchmark") in made.caption


def test_matching_names_what_exists() -> None:
    """Checkpoints are those of the presets, rows those of the published tables, tasks those of the studies."""
    found = json.loads((published.FOLDER / "matching.json").read_text())
    presets = Path(published.__file__).parent / "backbones" / "presets"
    ids = {json.loads(file.read_text()).get("published") for file in presets.glob("*/*.json")}
    assert set(found["checkpoints"]) <= ids
    main, freezing = published.load("main"), published.load("freezing")
    assert set(found["checkpoints"].values()) <= {row.key for row in main.rows}
    assert set(found["frozen"]) == {row.key for row in freezing.rows if row.baseline}
    assert set(found["benchmarks"]) == {c.key for c in main.columns} - {"size"}
    studies = Path(__file__).parents[3] / "studies"
    for name, entry in found["benchmarks"].items():
        text = (studies / f"main_table_{name}.yaml").read_text()
        assert all(task in text for task in entry["tasks"])


def test_frozen_arms_stand_beside_the_freezing_table(tmp_path: Path) -> None:
    where = make(tmp_path, freezing=True, labels=("P",), checkpoints=("google/paligemma-3b-pt-224",), tasks=SIMPLER,
                 starts=4, seeds=2, benchmark="simpler-bridge-v1")  # fmt: skip
    found = matching.beside(source.read(folder.load(where), where)).numbers
    table = published.load("freezing")
    rows = [table.row(key).cells["simpler"].printed for key in ("paligemma-1-vision", "paligemma-1-word")]
    assert [found["a0-vision"].printed, found["a0-words"].printed] == rows
    assert found["a0-full"].printed == published.load("main").row("paligemma-1").cells["simpler"].printed


def test_the_audit_is_told_arm_by_arm(written: Get) -> None:
    of = written("main")
    told = of.text("audit-table", "md")
    assert "| Differs without leave | optimizer.lr | 5e-05 / 2e-05 | 2e-05 | 2e-05 | 2e-05 |" in told
    tex = of.text("audit-table", "tex")
    assert r"50\% \& \$x\_1\$" in tex and r"\textless{}\textbar{}im\_start\textbar{}\textgreater{}" in tex
    assert "The audit failed" in of.text("audit-table", "caption.txt")
    lines = of.csv("audit-table")
    assert len(lines) == 5 * 12
    assert {x["value"] for x in lines if x["setting"] == "optimizer.lr" and x["arm"] == "a0"} == {"5e-05", "2e-05"}
    assert [x["verdict"] for x in lines if x["setting"] == "batch"] == ["equal"] * 12
    wide = written("freezing").text("audit-table", "md")  # six arms: values with the arms that have them
    assert "| optimizer.lr | 5e-05 / 2e-05 (Qwen3-VL); 2e-05 (" in wide.replace("Qwen3-VL, full", "Qwen3-VL")


def test_parameters_add_up(written: Get) -> None:
    of = written("freezing")
    lines = of.csv("parameters")
    for arm in of.recipes:
        own = [x for x in lines if x["arm"] == arm]
        (whole,) = [x for x in own if x["group"] == "all"]
        record = json.loads((of.study / f"train-{arm}-s0" / "run.json").read_text())
        assert int(whole["total"]) == sum(p["total"] for p in record["parameters"])
        assert int(whole["trainable"]) == sum(p["trainable"] for p in record["parameters"])
        assert whole["tokens_per_sample"] == str(record["facts"]["tokens_per_sample"])
        assert float(whole["flops_per_sample"]) == record["facts"]["flops_per_sample"]


def test_hostile_labels_inject_nothing(tmp_path: Path) -> None:
    where = make(tmp_path, labels=HOSTILE, tasks=("=1+1", "<script>x</script>"), starts=6, seeds=2, grid=True)
    build.build(where, where / "report")
    out = where / "report" / "paper"
    for tex in out.glob("*.tex"):
        text = tex.read_text()
        assert r"\input" not in text and r"\textbackslash{}input\{/etc/passwd\}" in text
        assert r"\\[" not in text and "{[}9cm{]}" in text
        body = re.sub(r"\\[%&$#_{}]", "", text)  # escaped ones
        assert "%" not in body and "#" not in body and not re.search(r"(?<!-)\$(?!-\$)(?!-)", body.replace("$-$", ""))
        assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 1
    for file in out.glob("*.csv"):
        for line in file.read_text().splitlines():
            assert not re.search(r'(^|,)"?[=@]', line), line
    assert "'=HYPERLINK" in (out / "main-table.csv").read_text()
    for file in (*out.glob("*.svg"), where / "report" / "index.html"):
        assert "<script>alert" not in file.read_text() and "<script>x" not in file.read_text()
    for file in out.glob("*.md"):
        assert not re.search(r"(?<!\\)\]\(javascript", file.read_text()) and "<script" not in file.read_text()


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-cmd", "@x", "  =1", "\t=1", "-1+2", "+"])
def test_formulas_are_disarmed(text: str) -> None:
    assert harmless(text) == f"'{text}"


@pytest.mark.parametrize("value", ["-0.3", "+2", "-1e-5", "a=b", "", -0.5, None, 3])
def test_numbers_stay_numbers(value: object) -> None:
    assert harmless(value) == value


def test_no_letter_of_latex_is_left_alone() -> None:
    made = latex("\\end{document} % & $ # _ { } ~ ^ * [x] \x00\x1bé")
    assert made == (
        r"\textbackslash{}end\{document\} \% \& \$ \# \_ \{ \} \textasciitilde{} \textasciicircum{} {*} {[}x{]} é"
    )


def test_csv_has_the_columns_of_all_lines() -> None:
    assert to_csv([{"a": 1}, {"b": None, "a": "=x"}]) == "a,b\n1,\n'=x,\n"


def test_the_page_links_every_file_and_shows_the_figures(written: Get) -> None:
    of = written("main")
    build.build(of.study, of.study / "report")
    page = (of.study / "report" / "index.html").read_text()
    section = page[page.index('id="paper"') :]
    for item in of.paper.items:
        for _, path in item.files:
            assert f'href="{path}"' in section and (of.study / "report" / path).is_file()
    assert section.count("<svg") == sum(item.svg is not None and item.name != "forest" for item in of.paper.items)
    assert "Differences between arms: <a" in section and page.count('id="figure-comparisons"') == 1  # drawn once
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    index = of.text("index", "md")
    assert "## Not made" in index and "no two arms of one model differ in what is frozen" in index
