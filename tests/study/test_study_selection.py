"""Checkpoint and horizon by the declared rule: tried on dev starts, fixed, evaluated once, and told in the report."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fake_stages import MEASURED, Stages

from vlm4vla import config as configs
from vlm4vla import records
from vlm4vla.records import RunRecord
from vlm4vla.schemas import StudyConfig
from vlm4vla.study import cells, execute, plan, selection, state, status
from vlm4vla.study.run import Study
from vlm4vla.types import RunFailed, UserError

FILE = Path(__file__).parents[2] / "studies" / "quickstart.yaml"
TWO = ["--tasks", "[drawer-open, drawer-close]"]
SELECT = "{on: dev, episodes: 5, checkpoints: [200, 400, 600], execute: [8, 4]}"
BEST = {("step-200", 4): 3, ("step-400", 8): 4, ("step-400", 4): 4, ("policy", 4): 4}
"""Dev episodes of five that are solved: three candidates are equally good."""


def study(*words: str) -> StudyConfig:
    return configs.load(StudyConfig, FILE, [*TWO, *words])


def solves(settings: dict[str, Any], task: str, episode: int) -> bool:
    key = (Path(settings["policy"]).name, settings["execute"])
    return settings["split"] == "eval" or episode < ({key: 0} | BEST)[key]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    return Stages(solves).installed(monkeypatch)


def eval_record(cell: cells.Cell) -> RunRecord:
    return records.read_one(cell.eval.out / "run.json", RunRecord)


def test_the_best_on_dev_is_fixed_and_evaluated_once(stages: Stages, tmp_path: Path) -> None:
    config = study("--select", SELECT)
    Study(config, tmp_path, lambda _: None, jobs=1).run()
    for cell in cells.cells(config, tmp_path):
        assert cell.train.keep == (200, 400)
        own = [s for s in stages.evaluated if s["arm"] == cell.name]
        assert [s["split"] for s in own] == ["dev"] * 6 + ["eval"]
        assert all(s["controls"] == [None] and s["episodes"] == 5 for s in own[:-1])
        record = eval_record(cell)
        assert Path(record.config["policy"]).name == "step-400" and record.config["execute"] == 8  # of equals: this one
        assert record.inputs["policy"] == f"{cell.folder.name}@400"
        found = record.facts["selection"]
        assert [(c["step"], c["execute"], c["score"]) for c in found["candidates"]] == [
            (200, 8, 0.0), (200, 4, 0.6), (400, 8, 0.8), (400, 4, 0.8), (600, 8, 0.0), (600, 4, 0.8),
        ]  # fmt: skip
        assert found["chosen"] == found["candidates"][2] and record.config["evaluation"] == 1
        assert state.finished(cell)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "6 candidates (checkpoint and executed horizon) per policy, tried on 5 dev episodes per task" in page
    assert "✓ 0.800" in page and "400 steps, execute 8" in page and "test set" not in page
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| trained vision | 0.000 | 0.600 | **0.800** | 0.800 | 0.000 | 0.800 |\n" in text
    assert "Sensitivity to the learning rate: not measured" in text


def test_selection_on_the_eval_starts_is_possible_and_called_by_its_name(stages: Stages, tmp_path: Path) -> None:
    config = study("--select", "{on: eval, episodes: 20, checkpoints: [300, 600]}")
    Study(config, tmp_path, lambda _: None, jobs=1).run()
    record = eval_record(cells.cells(config, tmp_path)[0])
    assert record.config["evaluation"] == 3  # two candidates have seen these starts before
    for name in ("index.html", "report.md"):
        assert "Selection on the test set" in (tmp_path / "report" / name).read_text()
    assert "times, of which this is the last" not in (tmp_path / "report" / "index.html").read_text()


def test_a_second_evaluation_of_a_training_run_is_counted_and_told(stages: Stages, tmp_path: Path) -> None:
    Study(study(), tmp_path, lambda _: None, jobs=1).run()
    again = study("--eval.execute", "8")  # the same training runs, tried once more on the same starts
    Study(again, tmp_path, lambda _: None, jobs=1).run()
    cell = cells.cells(again, tmp_path)[0]
    assert cell.folder == cells.cells(study(), tmp_path)[0].folder
    assert eval_record(cell).config["evaluation"] == 2
    noted = [json.loads(line) for line in (cell.folder / "eval-starts.jsonl").read_text().splitlines()]
    assert [line["evaluation"] for line in noted] == [1, 2] and noted[1]["folder"] == cell.eval.out.name
    assert "trained vision was evaluated on eval starts 2 times" in (tmp_path / "report" / "index.html").read_text()


def test_an_evaluation_counts_from_its_first_moment_and_once(stages: Stages, tmp_path: Path) -> None:
    """One that is cut off goes on under its number; one whose folder was removed was a look at the starts too."""
    config = study()
    cell, other = cells.cells(config, tmp_path)[0], cells.cells(study("--eval.execute", "8"), tmp_path)[0]

    def noted() -> list[tuple[int, str]]:
        lines = (cell.folder / "eval-starts.jsonl").read_text().splitlines()
        return [(line["evaluation"], line["folder"]) for line in map(json.loads, lines)]

    stages.broken = [cell.eval.out.name]
    for _ in range(2):
        assert execute.run_cell(cell) is not None
    assert noted() == [(1, cell.eval.out.name)]
    shutil.rmtree(cell.eval.out)
    assert execute.run_cell(cell) is not None and [number for number, _ in noted()] == [1, 2]
    stages.broken = []
    assert execute.run_cell(other) is None and eval_record(other).config["evaluation"] == 3
    assert execute.run_cell(cell) is None and eval_record(cell).config["evaluation"] == 2
    assert noted()[1:] == [(2, cell.eval.out.name), (3, other.eval.out.name)]


def test_an_interrupted_selection_goes_on_with_the_missing_candidates(stages: Stages, tmp_path: Path) -> None:
    config = study("--select", SELECT, "--arms.frozen.overrides", "{freeze: [vision]}")
    cell = cells.cells(config, tmp_path)[0]
    third = selection.candidates(cell)[2].out.name
    stages.broken = [third]
    with pytest.raises(RunFailed, match="eval ended with status 1"):
        Study(config, tmp_path, lambda _: None, jobs=1).run()
    left = {part["name"]: part["left"] for part in status.status(config, tmp_path)["parts"]}
    assert left["trained"] == {"episodes": 4 * 5 * 2 + 2 * 20 + 3 * 2 * 5}
    stages.broken, stages.evaluated = [], []
    Study(config, tmp_path, lambda _: None, jobs=1).run()
    assert next(Path(s["out"]).name for s in stages.evaluated if s["arm"] == "trained") == third
    assert stages.count("train") == 2


def test_plan_lists_candidates_and_estimate_pays_for_them() -> None:
    config = study("--select", SELECT)
    lines = plan.describe(config, Path("o"))
    tried = [line for line in lines if line["stage"] == "dev" and line["arm"] == "trained"]
    folder = cells.cells(config, Path("o"))[0].folder.name
    assert len(tried) == 6 and tried[0] == {
        "stage": "dev", "arm": "trained", "seed": 0, "policy": "step-200", "execute": 8, "episodes": 10,
        "needs": [folder],
    }  # fmt: skip
    probe = {arm: {"seconds_per_step": 0.2, "seconds_per_inference": 0.02} for arm in config.arms}
    more = plan.estimate(config, probe, MEASURED, jobs=2)
    less = plan.estimate(study(), probe, MEASURED, jobs=2)
    assert more["stages"]["arms"] > less["stages"]["arms"] + 6 * 6.0


def test_the_score_of_chains_is_their_length(tmp_path: Path) -> None:
    fake = Stages()
    fake._eval({"arm": "a", "policy": "builtin:x", "controls": [None], "tasks": ["t"], "episodes": 2,
                "execute": 1, "out": str(tmp_path)}, tmp_path)  # fmt: skip
    rows = records.read_all(tmp_path / "rows.jsonl", records.EpisodeRow)
    assert selection.score(rows) == 1.0
    assert selection.score([row.model_copy(update={"completed": 2 + i}) for i, row in enumerate(rows)]) == 2.5
    with pytest.raises(UserError, match="no rows"):
        selection.score([])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--select", "{on: dev, episodes: 5, checkpoints: [700]}"], "rising steps below the 600"),
        (["--select", "{on: dev, episodes: 5, checkpoints: [400, 200]}"], "rising steps, each once"),
        (["--select", "{on: dev, episodes: 5, execute: [9]}"], "more than the chunk of 8"),
        (["--select", "{on: eval, episodes: 5}"], "select.episodes must be eval.episodes"),
        (["--select", "{on: train, episodes: 5}"], "'dev' or 'eval'"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(words: list[str], expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected):
        Study(study(*words), tmp_path, lambda _: None).run()
    assert not list(tmp_path.iterdir())


def test_the_rule_survives_being_written_and_read(tmp_path: Path) -> None:
    config = study("--select", SELECT)
    records.write_atomic(tmp_path / "s.yaml", configs.to_yaml(config))
    assert configs.load(StudyConfig, tmp_path / "s.yaml") == config
    assert config.select is not None and config.select.on == "dev"
