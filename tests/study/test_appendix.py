"""What the study computes for print: per task, power, chains, and what was tried before the evaluation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_stages import Stages
from study_rows import rows

from vlm4vla import config as configs
from vlm4vla import records
from vlm4vla.records import EpisodeRow
from vlm4vla.report.paper.record import FILE, Appendix
from vlm4vla.schemas import StudyConfig
from vlm4vla.study import appendix, execute
from vlm4vla.study import run as study_run
from vlm4vla.study.power import RETRAIN_SD, Design
from vlm4vla.study.run import Study

QUICKSTART = Path(__file__).parents[2] / "studies" / "quickstart.yaml"


def runs(seeds: int, starts: int = 10) -> dict[str, list[list[EpisodeRow]]]:
    draw = np.random.default_rng(0)
    return {
        arm: [rows(f"{arm}{s}", {t: list(draw.random(starts) < rate) for t in ("open", "close")}) for s in range(seeds)]
        for arm, rate in (("a", 0.7), ("b", 0.4), ("c", 0.4))
    }


def chained(seeds: int) -> dict[str, list[list[EpisodeRow]]]:
    draw = np.random.default_rng(1)
    found: dict[str, list[list[EpisodeRow]]] = {}
    for arm, best in (("a", 6), ("b", 4)):
        for s in range(seeds):
            lengths = np.minimum(draw.integers(0, best, 24), 5)
            plain = rows(f"{arm}{s}", {"chain": [length == 5 for length in lengths]})
            told = [
                r.model_copy(update={"completed": int(k), "subtasks": 5, "initial_state": i // 3})
                for i, (r, k) in enumerate(zip(plain, lengths, strict=True))
            ]
            found.setdefault(arm, []).append(told)
    return found


def test_recipes_per_task_are_e3_and_single_checkpoints_e2() -> None:
    for seeds, estimand in ((3, "E3"), (1, "E2")):
        own = runs(seeds)
        found = appendix.per_task(own)
        assert [(e.arm, e.task) for e in found if e.arm == "a"] == [("a", "open"), ("a", "close")] and len(found) == 6
        for e in found:
            mine = [r.success for run in own[e.arm] for r in run if r.task == e.task]
            assert (e.estimand, e.episodes, e.successes) == (estimand, 10 * seeds, sum(mine))
            assert e.rate == pytest.approx(np.mean(mine)) and e.low <= e.rate <= e.high
    assert appendix.per_task(chained(2)) == []


def test_rates_in_a_row_are_counted_and_their_sum_is_the_average() -> None:
    own = chained(3)
    found = appendix.in_a_row(own)
    assert len(found) == 10 and {e.estimand for e in found} == {"E3"}
    for arm, mine in own.items():
        lengths = [r.completed or 0 for run in mine for r in run]
        for e in (e for e in found if e.arm == arm):
            assert e.successes == sum(k >= (e.in_a_row or 0) for k in lengths) and e.episodes == 72
            assert e.rate == pytest.approx(e.successes / 72) and e.low <= e.rate <= e.high
        assert sum(e.rate for e in found if e.arm == arm) == pytest.approx(np.mean(lengths))
    assert appendix.in_a_row(chained(1)) == [] and appendix.in_a_row(runs(3)) == []


def test_power_is_that_of_the_design() -> None:
    own = runs(3)
    parts = appendix.variance(own)
    found = appendix.power(own, parts)
    assert found is not None and found.measured and found.comparisons == 3
    retrain = next(part for part in parts if part.source == "retrain")
    assert (found.retrain_sd, found.low, found.high) == (retrain.sd, retrain.low, retrain.high)
    rates = [np.mean([r.success for run in mine for r in run]) for mine in own.values()]
    noise = float(np.mean([p * (1 - p) for p in rates])) / 20
    assert found.noise_variance == pytest.approx(noise)
    design = Design(retrain.sd, 3, 0.05 / 3, noise)
    (line,) = [line for line in found.lines if line.seeds == 3]
    for difference, power in line.points[::20]:
        assert power == pytest.approx(design.power(3, difference))
    assert line.detectable == pytest.approx(design.detectable(3))
    assert all(b[1] >= a[1] for a, b in zip(line.points, line.points[1:], strict=False))


def test_without_a_measured_spread_the_usual_one_is_assumed() -> None:
    found = appendix.power(runs(1), appendix.variance(runs(1)))
    assert found is not None and not found.measured and found.retrain_sd == RETRAIN_SD and found.limits == ()
    assert {line.seeds for line in found.lines} == set(appendix.SEEDS)
    assert appendix.power({"a": runs(3)["a"]}, []) is None
    in_a_row = appendix.power(chained(1), [])
    assert in_a_row is not None and in_a_row.retrain_sd == 5 * RETRAIN_SD  # of chains in subtasks, of five
    assert in_a_row.lines[0].points[-1][0] <= 5


@pytest.mark.parametrize("arms", [9, 20])
def test_power_of_many_arms_is_a_number(arms: int) -> None:
    """scipy's noncentral t knew no chance of the wrong side at the small alpha of 190 pairs."""
    design = Design(0.05, arms, 0.05 / (arms * (arms - 1) / 2), 0.002)
    found = [design.power(10, d) for d in np.linspace(0, 0.3, 200)]
    assert np.isfinite(found).all() and np.all(np.diff(found) >= -1e-4)


def test_a_study_writes_down_what_it_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def solves(settings: dict[str, Any], task: str, episode: int) -> bool:
        step = Path(settings["policy"]).name
        return (
            settings["split"] == "eval"
            or episode < {"step-200": 2, "policy": 3}.get(step, 0) + settings["execute"] // 8
        )

    fake = Stages(solves)
    for module in (execute, study_run):
        monkeypatch.setattr(module.subprocess, "run", fake.run)
    words = ["--tasks", "[drawer-open, drawer-close]", "--seeds", "[0, 1]"]
    words += ["--select", "{on: dev, episodes: 5, checkpoints: [200, 600], execute: [8, 4]}"]
    config = configs.load(StudyConfig, QUICKSTART, words)
    Study(config, tmp_path, lambda _: None, jobs=1).run()
    made = records.read_one(tmp_path / FILE, Appendix)
    arms = list(config.arms)
    assert [(t.arm, t.step, t.execute) for t in made.tried] == [
        (arm, step, execute) for step in (200, 600) for execute in (8, 4) for arm in arms
    ]
    best = [t for t in made.tried if t.step == 600 and t.execute == 8]
    assert all(t.scores == (0.8, 0.8) and t.chosen == (True, True) and t.episodes == 20 for t in best)
    assert not any(any(t.chosen) for t in made.tried if t not in best)
    assert all(t.low is not None and t.low <= t.mean <= (t.high or 0) and t.estimand == "E3" for t in made.tried)
    assert (tmp_path / "report/paper/checkpoints.pdf").is_file()
