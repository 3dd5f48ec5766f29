"""The same grid of learning rates for every arm: chosen on dev starts with a seed of its own, told with its flips."""

from pathlib import Path
from typing import Any

import pytest
from fake_stages import MEASURED, Stages

from vlm4vla import config as configs
from vlm4vla import records
from vlm4vla.records import RunRecord
from vlm4vla.schemas import StudyConfig
from vlm4vla.study import cells, plan, status, tuning
from vlm4vla.study.run import Study
from vlm4vla.types import RunFailed, UserError

FILE = Path(__file__).parents[2] / "studies" / "quickstart.yaml"
TWO = ["--tasks", "[drawer-open, drawer-close]"]
GRID = ["--lr_policy", "{equal-budget: {factors: [0.33, 1, 3], seed: 0, episodes: 10}}", "--seeds", "[1, 2]"]
DEV = {("trained", 0.33): 2, ("trained", 1.0): 6, ("trained", 3.0): 9, ("frozen", 0.33): 4, ("frozen", 1.0): 5,
       ("frozen", 3.0): 5}  # fmt: skip


def study(*words: str) -> StudyConfig:
    return configs.load(StudyConfig, FILE, [*TWO, *words])


def solves(settings: dict[str, Any], task: str, episode: int) -> bool:
    if settings["split"] == "eval":
        return True
    arm, factor = settings["arm"].split("-x")
    return episode < DEV[arm, float(factor)]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    return Stages(solves).installed(monkeypatch)


def test_every_arm_is_tuned_alike_and_fresh_seeds_take_the_choice(stages: Stages, tmp_path: Path) -> None:
    config = study(*GRID)
    Study(config, tmp_path, lambda _: None, jobs=1).run()
    assert stages.count("train") == 2 * 3 + 2 * 2
    tried = [s for s in stages.evaluated if "-x" in s["arm"]]
    assert {s["split"] for s in tried} == {"dev"} and {s["seed"] for s in tried} == {0} and len(tried) == 6
    assert tuning.factors(config, tmp_path) == {"trained": 3.0, "frozen": 1.0}  # frozen: of equals the nearest to 1
    for cell in cells.cells(config, tmp_path, {"trained": 3.0, "frozen": 1.0}):
        record = records.read_one(cell.train.out / "run.json", RunRecord)
        assert record.seed in (1, 2)
        assert record.config["optimizer"]["lr"] == pytest.approx(1.5e-3 if cell.arm == "trained" else 5e-4)
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| trained vision | 0.200 (0.000165) | 0.600 (0.0005) | **0.900 (0.0015)** |\n" in text
    assert (
        "The order of trained vision and frozen random vision depends on the learning rate: the first leads at " in text
    )
    assert "x 1, 3, the second at x 0.33" in text and "not measured" not in text
    assert "✓ 0.900 (0.0015)" in (tmp_path / "report" / "index.html").read_text()


def test_an_arm_whose_tuning_failed_is_not_trained_the_others_are(stages: Stages, tmp_path: Path) -> None:
    config = study(*GRID)
    broken = next(t.cell for t in cells.trials(config, tmp_path) if (t.arm, t.factor) == ("frozen", 3.0))
    stages.broken = [broken.folder.name]
    with pytest.raises(RunFailed, match="frozen-x3: train ended with status 1"):
        Study(config, tmp_path, lambda _: None, jobs=1).run()
    found = {part["name"]: part["state"] for part in status.status(config, tmp_path)["parts"]}
    assert [found[n] for n in ("frozen-x3", "frozen-s1", "trained-s1", "trained-s2")] == [
        "failed", "missing", "finished", "finished",
    ]  # fmt: skip
    stages.broken, stages.calls = [], []
    Study(config, tmp_path, lambda _: None, jobs=1).run()
    assert stages.count("train") == 1 + 2


def test_ties_and_flips() -> None:
    assert tuning.best({0.5: 0.4, 1.0: 0.4, 2.0: 0.1}) == 1.0
    assert tuning.best({0.5: 0.4, 1.0: 0.1, 2.0: 0.4}) == 0.5  # as far from 1 in ratio: the smaller
    assert tuning.flips({"a": {0.5: 0.1, 2.0: 0.3}, "b": {0.5: 0.1, 2.0: 0.2}}) == []  # a tie is no flip
    found = tuning.flips({"a": {0.5: 0.1, 2.0: 0.3}, "b": {0.5: 0.2, 2.0: 0.2}, "c": {0.5: 0.0, 2.0: 0.1}})
    assert found == [{"a": "a", "b": "b", "a_leads": [2.0], "b_leads": [0.5]}]


def test_plan_and_estimate_count_the_trials() -> None:
    config = study(*GRID)
    stages = [line["stage"] for line in plan.describe(config, Path("o"))]
    assert stages.count("tune") == 6 and stages.count("train") == 4
    probe = {arm: {"seconds_per_step": 0.2, "seconds_per_inference": 0.02} for arm in config.arms}
    found = plan.estimate(config, probe, MEASURED, jobs=1)
    assert found["stages"]["tuning"] > 6 * 0.2 * 600


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--lr_policy", "{equal-budget: {factors: [0.5, 1], seed: 0}}"], "results need fresh ones"),
        (["--lr_policy", "{equal-budget: {factors: [1], seed: 9}}"], "at least 2"),
        (["--lr_policy", "{equal-budget: {factors: [3, 1], seed: 9}}"], "rising"),
        (["--lr_policy", "free"], "fixed"),
        (["--lr_policy", "{}"], "lr_policy"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(words: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        study(*words)
