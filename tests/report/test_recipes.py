"""A study with several training seeds: recipes first, checkpoints after them, and no sentence that mixes the two."""

import json
from pathlib import Path

import pytest
from synthetic_study import BENCHMARK, RATES, TASKS, episode_rows, run_record

from vlm4vla.records import EpisodeRow, Estimate, read_all, write_all, write_atomic, write_one
from vlm4vla.report.build import build
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


def test_an_estimate_that_its_rows_do_not_bear_out_is_refused(tmp_path: Path) -> None:
    folder = study(tmp_path)
    first, *others = read_all(folder / "estimates.jsonl", Estimate)
    assert first.estimand == "E3" and (first.seeds, first.letters) == (3, "a")
    write_all(folder / "estimates.jsonl", [first.model_copy(update={"successes": first.successes + 1}), *others])
    with pytest.raises(UserError, match="its rows say"):
        build(folder, tmp_path / "report")
