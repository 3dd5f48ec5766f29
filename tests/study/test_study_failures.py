"""A cell that fails stops no other, is told at the end, and is the only one that a second run tries."""

import json
from pathlib import Path

import pytest
from fake_stages import Stages

from vlm4vla import config as configs
from vlm4vla import records
from vlm4vla.cli.main import main
from vlm4vla.schemas import StudyConfig
from vlm4vla.study import cells, state, status
from vlm4vla.study.run import Study
from vlm4vla.types import RunFailed, UserError

FILE = Path(__file__).parents[2] / "studies" / "quickstart.yaml"
TWO = ["--tasks", "[drawer-open, drawer-close]"]


def study(*words: str) -> StudyConfig:
    return configs.load(StudyConfig, FILE, [*TWO, *words])


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    return Stages().installed(monkeypatch)


def states(config: StudyConfig, out: Path) -> dict[str, str]:
    return {part["name"]: part["state"] for part in status.status(config, out)["parts"]}


def test_a_failed_cell_stops_no_other_and_is_tried_alone_again(stages: Stages, tmp_path: Path) -> None:
    config = study("--seeds", "[0, 1]")
    stages.broken = ["trained-s0"]
    said: list[str] = []
    with pytest.raises(RunFailed) as told:
        Study(config, tmp_path, said.append, jobs=1).run()
    assert "1 parts of the study failed" in str(told.value)
    assert "trained-s0: train ended with status 1: vlm4vla: no luck (its log is" in str(told.value)
    assert stages.count("train") == 4 and stages.count("eval") == 2 + 3
    found = states(config, tmp_path)
    assert found["trained-s0"] == "failed"
    assert [found[name] for name in ("trained-s1", "frozen-s0", "frozen-s1", "expert")] == ["finished"] * 4
    assert not (tmp_path / "report").exists()
    stages.broken, stages.calls = [], []
    Study(config, tmp_path, said.append, jobs=1).run()
    assert [verb for verb, _ in stages.calls if verb in ("train", "eval")] == ["train", "eval"]
    assert set(states(config, tmp_path).values()) == {"finished", "missing"}  # demonstrations leave no record here
    assert (tmp_path / "report" / "index.html").is_file()


def test_a_study_that_began_in_the_folder_of_a_finished_one_leaves_it_unfinished(
    stages: Stages, tmp_path: Path
) -> None:
    """The report in the folder may be another study's by then: the first one is made again, from what is there."""
    first, second = Study(study(), tmp_path, lambda _: None, jobs=1), study("--eval.execute", "8")
    first.run()
    assert first.finished()
    stages.broken = ["eval-frozen"]
    with pytest.raises(RunFailed):
        Study(second, tmp_path, lambda _: None, jobs=1).run()
    assert not first.finished()
    stages.broken, stages.calls = [], []
    first.run()
    assert first.finished() and not stages.count("train") + stages.count("eval")


def test_a_reference_and_a_store_that_fail_stop_nothing_else(stages: Stages, tmp_path: Path) -> None:
    config = study("--arms.frozen.overrides", "{freeze: [vision], policy.backbone.image_size: 64}",
                   "--may_differ", "[freeze, policy.backbone.image_size]")  # fmt: skip
    stages.broken = [cells.store_folder(config, Path("o"), 64).name, "eval-expert"]
    with pytest.raises(RunFailed) as told:
        Study(config, tmp_path, lambda _: None, jobs=2).run()
    assert "store of 64 pixels" in str(told.value) and "expert: ended with status 1" in str(told.value)
    assert states(config, tmp_path)["trained"] == "finished" and states(config, tmp_path)["frozen"] == "missing"


def test_status_tells_state_last_words_times_and_what_remains(
    stages: Stages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = study(), tmp_path / "out"
    before = status.status(config, out)
    assert set(before["counts"]) == {"missing"}
    assert before["left"] == {"training steps": 2 * 600, "episodes": 4 * 2 * 20 + 3 * 2 * 5}
    stages.broken = ["frozen-s0"]
    with pytest.raises(RunFailed):
        Study(config, out, lambda _: None, jobs=1).run()
    assert main(["study", "status", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    parts = {part["name"]: part for part in found["parts"]}
    assert found["left"] == {"training steps": 600, "episodes": 2 * 20} and not found["running"]
    assert parts["frozen"]["failure"]["message"] == "train ended with status 1: vlm4vla: no luck"
    assert parts["trained"]["times"]["eval"]["wall_s"] == 60.0
    assert main(["study", "status", str(FILE), "--out", str(out), *TWO]) == 0
    words = capsys.readouterr().out
    assert "no luck" in words and "left: 600 training steps, 40 episodes" in words.splitlines()[-1]
    cell = cells.cells(config, out)[1]
    with records.locked(cell.folder):
        assert states(config, out)["frozen"] == "running"
    state.forget_failure(cell.folder)
    assert states(config, out)["frozen"] == "stopped"
    with pytest.raises(UserError, match=r"no study\.yaml"):
        status.find(tmp_path, None, [])


def test_an_evaluation_of_another_policy_is_not_taken_for_finished(stages: Stages, tmp_path: Path) -> None:
    Study(study(), tmp_path, lambda _: None, jobs=1).run()
    cell = cells.cells(study(), tmp_path)[0]
    assert state.finished(cell)
    record = state.record_of(cell.train.out)
    assert record is not None
    records.write_one(cell.train.out / "run.json", record.model_copy(update={"inputs": {"policy": "trained again"}}))
    assert not state.finished(cell)
