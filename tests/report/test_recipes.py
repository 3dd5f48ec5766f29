"""A study with several training seeds: recipes first, checkpoints after them, and no sentence that mixes the two."""

import json
from pathlib import Path

import pytest
from big_study import make_big_study
from synthetic_study import BENCHMARK, RATES, TASKS, episode_rows, run_record

from vlm4vla.records import Comparison, EpisodeRow, Estimate, read_all, write_all, write_atomic, write_one
from vlm4vla.report import answer, figures
from vlm4vla.report.build import build
from vlm4vla.report.folder import load
from vlm4vla.report.sentences import difference_sentence, scope_sentence
from vlm4vla.study import compare
from vlm4vla.study.recipes import conclude
from vlm4vla.types import UserError

LABELS = {"full": "Full fine-tuning", "frozen": "Vision frozen"}


def rows_of(arm: str, seed: int) -> list[EpisodeRow]:
    return [
        r.model_copy(update={"arm": f"{arm}-s{seed}"})
        for r in episode_rows(f"{arm}{seed}", None, RATES[arm], TASKS, 20)
    ]


def study(folder: Path, seeds: int = 3, equivalence: float | None = None) -> Path:
    arms, rows, runs = [], [], {}
    for arm in LABELS:
        for seed in range(seeds):
            name = f"{arm}-s{seed}"
            own = rows_of(arm, seed)
            rows += own
            runs.setdefault(arm, []).append(own)
            write_one(folder / f"eval-{name}/run.json", run_record(f"eval-{name}", "eval"))
            write_all(folder / f"eval-{name}/rows.jsonl", own)
            entry = {"name": name, "label": f"{LABELS[arm]}, seed {seed}", "run": None, "eval": f"eval-{name}"}
            arms.append(entry | {"recipe": arm, "recipe_label": LABELS[arm]})
    means, differences = conclude(runs, equivalence=equivalence)
    write_all(folder / "estimates.jsonl", [*means, *compare.estimates(rows)])
    write_all(folder / "comparisons.jsonl", differences)
    document = {
        "name": "s",
        "title": "Seeds",
        "caveat": "c",
        "factor": "f",
        "benchmark": BENCHMARK,
        "tasks": list(TASKS),
    }
    document |= {"instructions": {}, "arms": arms, "references": [], "command": "x", "created": "2026-11-20T05:20:00Z"}
    write_atomic(folder / "study.json", json.dumps(document | {"wall_s": {}, "estimate_s": None}))
    return folder


def test_recipes_are_what_the_report_speaks_of(tmp_path: Path) -> None:
    build(study(tmp_path), tmp_path / "report")
    page, text = ((tmp_path / "report" / name).read_text() for name in ("index.html", "report.md"))
    for told in (page, text):
        assert "2 arms, 3 training runs each" in told
        assert "Full fine-tuning, trained 3 times, succeeds in" in told
        assert "3 training runs per arm stand behind it" in told
        assert "of single checkpoints" in told and "Full fine-tuning, seed 2" in told
        assert "this recipe, trained again" in told
        assert "cannot be told apart (Holm over all pairs)" in told.replace("\\", "")
        assert "episodes: " not in told  # the sentence of a single checkpoint's rate
    lead = page.split('class="lead">')[1].split("</p>")[0]
    assert lead.startswith("Full fine-tuning") and "3 training runs each" in lead and "pairs of episodes" not in lead


def test_recipes_are_told_from_the_checkpoints_below_them(tmp_path: Path) -> None:
    """With floor and controls beside them, no sentence about one training run stands under a verdict on recipes."""
    records = load(make_big_study(tmp_path, recipes_=3, seeds=2, steps=200))
    assert {c.estimand for c in records.comparisons} == {"E2", "E3"}
    recipes, scale = answer.answer(records).scope
    assert recipes.startswith("This is about the recipes: 2 training runs per arm stand behind it.")
    assert scale == (
        "Comparisons with the floor and a policy's own controls are about single checkpoints on starts like these."
    )


def test_the_figure_of_differences_says_what_the_verdicts_say(tmp_path: Path) -> None:
    """Black where interval and Holm's p agree; diamonds where equivalence is shown, in its declared band."""
    records = load(study(tmp_path, equivalence=0.9))
    (plain,) = records.comparisons
    drawing = figures.comparisons(records)
    assert drawing is not None and drawing.description.startswith("Differences in success rate (points)")
    assert drawing.note.startswith("Band: arms nearer than 90 points count as equal, as declared before the study")
    clear = plain.model_copy(update={"difference": 0.3, "low": 0.1, "high": 0.5, "p_value": 0.01, "equivalence": None})
    taken_back = clear.model_copy(update={"p_value": 0.2})
    equal = plain.model_copy(update={"difference": 0.1, "low": -0.1, "high": 0.3, "p_value": 0.4, "equivalence_p": 0.0})
    for drawn, colour, marker, bands in (
        (clear, figures.INK, "s", 0),
        (taken_back, figures.GREY, "s", 0),
        (equal, figures.GREY, "D", 1),
    ):
        (axes,) = figures._forest(records, [drawn], figures.WIDE).axes
        line, point, _ = axes.lines
        assert (line.get_color(), point.get_color(), point.get_marker()) == (colour, colour, marker)
        assert len(axes.patches) == bands
    assert axes.get_xlim()[1] > 90


def test_the_band_is_drawn_on_the_page(tmp_path: Path) -> None:
    build(study(tmp_path, equivalence=0.1), tmp_path / "report")
    page = (tmp_path / "report/index.html").read_text()
    section = page[page.index('id="comparisons"') : page.index("</section>", page.index('id="comparisons"'))]
    assert figures.BAND.lower() in section.lower() and "Band: arms nearer than 10 points" in section
    assert "Black: the interval leaves out zero and Holm" in section and "Intervals are not adjusted." in section
    assert "Paired differences" not in page and section.count('<th scope="col" class="num">BH</th>') == 1


def test_both_corrections_of_every_family_are_recorded(tmp_path: Path) -> None:
    """Pairs of recipes are one family, checkpoints against floor and controls another."""
    folder = make_big_study(tmp_path, recipes_=4, seeds=2, steps=200)
    found = read_all(folder / "comparisons.jsonl", Comparison)
    for estimand, size in (("E3", 6), ("E2", 16)):
        own = [c for c in found if c.estimand == estimand]
        assert len(own) == size and all(f"Holm over {size}" in c.p_method for c in own)
        gain = [c.p_value - (c.p_bh or 0) for c in own if c.p_bh is not None]
        assert len(gain) == size and min(gain) > -1e-9 and max(gain) > 0.01


@pytest.mark.parametrize("chain", [None, 5])
def test_recipes_record_their_standard_errors(tmp_path: Path, chain: int | None) -> None:
    """In the unit of the rate; smaller than the interval would say, which also knows how few runs there are."""
    tasks = ("chain",) if chain else TASKS
    folder = make_big_study(tmp_path, recipes_=2, seeds=2, tasks=tasks, episodes=12, chain=chain, steps=200)
    found = read_all(folder / "estimates.jsonl", Estimate)
    assert {e.standard_error is None for e in found if e.estimand == "E2"} == {True}
    for e in (e for e in found if e.estimand == "E3"):
        assert e.standard_error is not None
        assert 0.2 < e.standard_error / ((e.high - e.low) / 2 / 1.96) < 0.9


def test_two_runs_are_a_pilot_and_one_is_refused(tmp_path: Path) -> None:
    build(study(tmp_path, seeds=2), tmp_path / "report")
    assert "Caution: pilot: two training runs per arm say little" in (tmp_path / "report/report.md").read_text()
    with pytest.raises(UserError, match="two"):
        conclude({arm: [rows_of(arm, 0)] for arm in LABELS})


def test_no_effect_can_be_a_result(tmp_path: Path) -> None:
    arms = {"a": [rows_of("full", seed) for seed in range(3)], "b": [rows_of("full", seed) for seed in range(3, 6)]}
    _, (wide,) = conclude(arms, equivalence=0.9)
    assert wide.equivalence_p is not None and wide.equivalence_p < 0.05
    assert "are equal to within 90 points, as declared before the study" in difference_sentence(wide, "A", "B")
    _, (none,) = conclude(arms)
    assert "this does not show that they are equal" in difference_sentence(none, "A", "B")
    assert scope_sentence(none).startswith("This is about the recipes: 3 training runs")


def test_a_difference_of_recipes_that_its_rows_do_not_bear_out_is_refused(tmp_path: Path) -> None:
    folder = study(tmp_path)
    (only,) = read_all(folder / "comparisons.jsonl", Comparison)
    write_all(folder / "comparisons.jsonl", [only.model_copy(update={"difference": only.difference + 1e-6})])
    with pytest.raises(UserError, match="of 'full' with 'frozen' says a difference of"):
        load(folder)


def test_an_average_of_chains_that_its_rows_do_not_bear_out_is_refused(tmp_path: Path) -> None:
    folder = make_big_study(tmp_path, recipes_=2, seeds=2, tasks=("chain",), episodes=12, chain=5, steps=200)
    found = read_all(folder / "estimates.jsonl", Estimate)
    load(folder)
    for n in (0, next(i for i, e in enumerate(found) if e.in_a_row == 2)):
        false = [e.model_copy(update={"rate": e.rate + 1e-6}) if i == n else e for i, e in enumerate(found)]
        write_all(folder / "estimates.jsonl", false)
        with pytest.raises(UserError, match="says a mean of"):
            load(folder)


def test_an_estimate_that_its_rows_do_not_bear_out_is_refused(tmp_path: Path) -> None:
    folder = study(tmp_path)
    first, *others = read_all(folder / "estimates.jsonl", Estimate)
    assert first.estimand == "E3" and (first.seeds, first.letters) == (3, "a")
    write_all(folder / "estimates.jsonl", [first.model_copy(update={"successes": first.successes + 1}), *others])
    with pytest.raises(UserError, match="its rows say"):
        build(folder, tmp_path / "report")
