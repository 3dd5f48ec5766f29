"""Figures for print: files as journals take them, captions that say what stands behind, numbers that rows bear out."""

import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from print_study import make
from print_written import Written
from scipy import stats

from vlm4vla.records import write_one
from vlm4vla.report import folder
from vlm4vla.report.figures import COLOURS
from vlm4vla.report.paper import forest, slopes, source
from vlm4vla.report.paper.record import FILE, Appendix
from vlm4vla.report.paper.write import write
from vlm4vla.types import UserError

Get = Callable[[str], Written]


def names(of: Written) -> set[str]:
    return {item.name for item in of.paper.items if item.svg is not None}


def test_each_study_gets_the_figures_that_it_bears(written: Get) -> None:
    everywhere = {"forest", "variance", "power"}
    assert names(written("main")) == everywhere | {"heatmap", "checkpoints", "rates"}
    assert names(written("freezing")) == everywhere | {"heatmap", "slopes"}
    assert names(written("chains")) == everywhere | {"survival"}
    assert names(written("single")) == {"forest", "power", "heatmap"}
    why = {m.name: m.why for m in written("single").paper.missing}
    assert why["rates"].startswith("not measured") and "one training run per arm" in why["variance"]


def test_files_are_as_journals_take_them(written: Get) -> None:
    for study in ("main", "freezing", "chains"):
        of = written(study)
        for item in of.paper.items:
            if item.svg is None:
                continue
            pdf = (of.out / f"{item.name}.pdf").read_bytes()
            box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", pdf)
            assert box is not None and float(box[1]) / 72 in (pytest.approx(3.3), pytest.approx(6.9))
            plain = pdf + b"".join(_unpacked(pdf))
            assert b"/FontFile2" in plain and b"/Type3" not in plain and b"CreationDate" not in plain
            svg = of.text(item.name, "svg")
            assert "<text" not in svg and "<script" not in svg and not re.search(r"20\d\d-\d\d-\d\d", svg)


def _unpacked(pdf: bytes) -> list[bytes]:
    found = []
    for part in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        try:
            found.append(zlib.decompress(part))
        except zlib.error:
            continue
    return found


def test_captions_say_n_seeds_estimand_and_method(written: Get) -> None:
    for study in ("main", "freezing", "chains", "single"):
        of = written(study)
        for item in of.paper.items:
            text = of.text(item.name, "caption.txt")
            assert text.startswith(f"{item.title}. ") and text.endswith("\n") and text.count("\n") == 1
            if item.name in ("audit-table", "parameters"):
                assert "no estimand" in text
                continue
            assert "n = " in text and "stimand E" in text, text
            assert "training run" in text and ("interval" in text or item.name == "power"), text


def test_the_same_records_give_the_same_bytes(written: Get) -> None:
    of = written("chains")
    again = of.study / "again"
    write(folder.load(of.study), of.study, again)
    first = {f.name: f.read_bytes() for f in of.out.iterdir()}
    assert {f.name: f.read_bytes() for f in (again / "paper").iterdir()} == first


def test_differences_in_the_forest_are_those_of_the_rows(written: Get) -> None:
    of = written("main")
    lines = of.csv("forest")
    assert len(lines) == 6
    for line in lines:
        expected = of.rate(line["a"]) - of.rate(line["b"])
        assert float(line["difference"]) == pytest.approx(expected)
        assert float(line["low"]) < expected < float(line["high"])
    equal = [
        x for x in lines if float(x["equivalence_p"]) <= 0.05 and not (float(x["low"]) > 0 or float(x["high"]) < 0)
    ]
    assert equal, "the study has a pair that is equal within 20 points"
    assert "equivalence within 20 points" in of.text("forest", "caption.txt")
    assert COLOURS[0].lower() in of.text("forest", "svg")  # something is decided


def test_the_csv_has_both_corrections(written: Get) -> None:
    for line in written("main").csv("forest"):
        assert 0 <= float(line["p_bh"]) <= float(line["p_value"]) + 1e-9 <= 1 + 1e-9


def test_only_the_largest_differences_are_drawn(written: Get) -> None:
    of = written("freezing")  # 6 arms, 15 pairs
    lines = of.csv("forest")
    assert {x["drawn"] for x in lines} == {"True"} and len(lines) == 15
    read = source.read(folder.load(of.study), of.study)
    most, forest.MOST = forest.MOST, 5
    try:
        made = forest.make(read)
    finally:
        forest.MOST = most
    assert isinstance(made, source.Plot) and "The 5 largest of 15 differences" in made.caption
    drawn = sorted(abs(float(str(x["difference"]))) for x in made.plain if x["drawn"])
    left = [abs(float(str(x["difference"]))) for x in made.plain if not x["drawn"]]
    assert len(drawn) == 5 and min(drawn) >= max(left)


def test_heat_map_and_slopes_count_the_rows(written: Get) -> None:
    of = written("main")
    lines = of.csv("heatmap")
    assert len(lines) == 16
    for line in lines[::5]:
        assert float(line["rate"]) == pytest.approx(of.rate(line["arm"], line["task"]))
        assert line["estimand"] == "E3" and line["seeds"] == "3"
    order = list(dict.fromkeys(line["arm"] for line in lines))
    assert order == sorted(order, key=lambda arm: -of.rate(arm))
    of = written("freezing")
    lines = of.csv("slopes")
    assert [x["frozen"] for x in lines if x["run"] == ""] == ["nothing", "embedding", "vision"] * 2
    for line in lines:
        runs = of.rows(line["arm"])
        own = runs[int(line["seed"])] if line["run"] else [r for run in runs for r in run]
        assert float(line["rate"]) == pytest.approx(sum(bool(r["success"]) for r in own) / len(own))
    assert len([x for x in lines if x["run"]]) == 18


def test_arms_that_differ_in_more_than_what_is_frozen_are_no_slope(written: Get) -> None:
    of = written("freezing")
    read = source.read(folder.load(of.study), of.study)
    changed = []
    for recipe in read.recipes:
        training = tuple(
            t.__class__(t.arm, t.run and t.run.model_copy(update={"config": t.run.config | {"batch": 64}}), t.metrics)
            if "words" in recipe.label else t
            for t in recipe.training
        )  # fmt: skip
        changed.append(recipe.__class__(recipe.name, recipe.label, recipe.arms, recipe.rows, training, recipe.mean))
    assert [len(model.arms) for model in slopes.models(read.recipes)] == [3, 3]
    assert [len(model.arms) for model in slopes.models(changed)] == [2, 2]


def test_sources_of_spread(written: Get) -> None:
    of = written("main")
    parts = {line["source"]: line for line in of.csv("variance")}
    assert sum(float(x["share"]) for x in parts.values() if x["share"]) == pytest.approx(1)
    means = np.array([[np.mean([bool(r["success"]) for r in run]) for run in of.rows(recipe)] for recipe in of.recipes])
    seen = means.var(axis=1, ddof=1).mean()  # retraining, and the noise of 80 episodes
    episode = float(parts["episode"]["sd"]) ** 2 / 80
    assert float(parts["retrain"]["sd"]) == pytest.approx(max(seen - episode, 0) ** 0.5, abs=1e-9)


def test_power_is_that_of_simulated_studies(written: Get) -> None:
    of = written("main")
    lines = [x for x in of.csv("power") if x["own_seeds"] == "True" and x["sd_is"] == "measured"]
    chosen = min(lines, key=lambda x: abs(float(x["power"]) - 0.6))
    rates = np.array([of.rate(recipe) for recipe in of.recipes])
    sd = (float(chosen["retrain_sd"]) ** 2 + (rates * (1 - rates)).mean() / 80) ** 0.5
    generator = np.random.default_rng(3)
    made = sd * generator.standard_normal((20_000, 4, 3))
    made[:, 0] += float(chosen["difference"])
    pooled = made.var(axis=2, ddof=1).mean(axis=1)
    t = (made[:, 0].mean(axis=1) - made[:, 1].mean(axis=1)) / np.sqrt(2 * pooled / 3)
    found = np.mean(2 * stats.t.sf(np.abs(t), 8) < 0.05 / 6)
    assert found == pytest.approx(float(chosen["power"]), abs=0.015)
    assumed = written("single")
    assert "assumed, since one training run per arm shows none: 4.0 points" in assumed.text("power", "caption.txt")
    assert not any(x["own_seeds"] == "True" for x in assumed.csv("power"))


def test_chains_are_counted(written: Get) -> None:
    of = written("chains")
    lines = of.csv("survival")
    assert len(lines) == 4 * (1 + 3) * 5
    for line in lines:
        runs = of.rows(line["arm"])
        own = [r for run in runs for r in run if line["run"] in ("", r["arm"])]
        expected = sum(int(str(r["completed"])) >= int(line["in_a_row"]) for r in own) / len(own)
        assert float(line["rate"]) == pytest.approx(expected, abs=1e-9)
        assert line["estimand"] == ("E2" if line["run"] else "E3")
        assert float(line["low"]) <= expected <= float(line["high"])
    # The rates of 1 to 5 in a row add up to the average, which is the number of the main table.
    for recipe in of.recipes:
        total = sum(float(x["rate"]) for x in lines if x["arm"] == recipe and not x["run"])
        (mean,) = [x for x in of.csv("main-table") if x["arm"] == recipe and x["measure"] == "completed"]
        assert float(mean["rate"]) == pytest.approx(total)
    assert "20 initial states" in of.text("survival", "caption.txt")


def test_what_was_tried_and_the_rates_of_learning(written: Get) -> None:
    of = written("main")
    lines = of.csv("checkpoints")
    assert len(lines) == 3 * 2 * 4 * 3
    for line in lines[::17]:
        same = [float(x["score"]) for x in lines if all(x[k] == line[k] for k in ("arm", "step", "execute"))]
        assert float(line["mean"]) == pytest.approx(np.mean(same)) and len(same) == 3
    assert {(x["step"], x["execute"]) for x in lines if x["chosen"] == "True"} == {("200", "4")}
    tuned = of.csv("rates")
    assert [float(x["score"]) for x in tuned[:3]] == [0.4, 0.5, 0.45]
    leads = {f: {x["arm"]: float(x["score"]) for x in tuned if x["factor"] == f} for f in ("0.33", "3.0")}
    assert leads["0.33"]["a1"] > leads["0.33"]["a0"] and leads["3.0"]["a0"] > leads["3.0"]["a1"]
    assert "a ranking of these at one rate alone is no finding" in of.text("rates", "caption.txt")
    assert {x["order_depends_on_rate"] for x in tuned} == {"True"}


def test_an_appendix_that_rows_contradict_is_refused_and_an_old_study_has_none(tmp_path: Path) -> None:
    where = make(tmp_path, labels=("A", "B"), starts=5)
    made = Appendix.model_validate_json((where / FILE).read_text())
    first, *others = made.tasks
    false = first.model_copy(update={"successes": first.successes - 1})
    write_one(where / FILE, made.model_copy(update={"tasks": (false, *others)}))
    with pytest.raises(UserError, match="do not agree about 'a0' on 'drawer-open'"):
        write(folder.load(where), where, where / "report")
    write_one(where / FILE, made)
    write(folder.load(where), where, where / "report")
    assert (where / "report/paper/heatmap.pdf").is_file()
    (where / FILE).unlink()
    old = write(folder.load(where), where, where / "report")
    assert {m.name for m in old.missing} >= {"heatmap", "variance", "power"} and {i.name for i in old.items} >= {
        "forest"
    }
    assert not (where / "report/paper/heatmap.pdf").exists(), "a figure of an earlier report must not stay"


def test_many_arms_get_a_panel_each(tmp_path: Path) -> None:
    where = make(tmp_path, labels=[f"Model {i}" for i in range(9)], rates=[0.3 + 0.04 * i for i in range(9)],
                 seeds=2, starts=4, grid=True)  # fmt: skip
    made = write(folder.load(where), where, where / "report")
    svg = next(str(item.svg) for item in made.items if item.name == "rates")
    assert json.loads((where / "study.json").read_text())["tuning"]["flips"]
    assert svg.count(COLOURS[1].lower()) == 0 and svg.count(COLOURS[0].lower()) > 9  # one colour, before grey
