"""Cells by content, and an audit that notices what the factor does not name."""

from pathlib import Path

import pytest
from fake_stages import MEASURED

from vlm4vla import config as configs
from vlm4vla import registry
from vlm4vla.schemas import StudyConfig
from vlm4vla.study import audit, cells, plan
from vlm4vla.study.run import Study
from vlm4vla.types import UserError

FILE = Path(__file__).parents[2] / "studies" / "quickstart.yaml"


def study(*words: str) -> StudyConfig:
    return configs.load(StudyConfig, FILE, words)


def folders(s: StudyConfig) -> dict[str, Path]:
    return {c.arm: c.train.out for c in cells.cells(s, Path("out"))}


def test_arms_share_everything_but_the_factor() -> None:
    trained, frozen = cells.cells(study(), Path("out"))
    found = configs.diff(configs.to_dict(trained.train), configs.to_dict(frozen.train))
    assert set(found) == {"freeze", "out"}
    assert trained.train.data.store == frozen.train.data.store


def test_a_changed_setting_makes_a_new_cell_and_leaves_the_others() -> None:
    before, after = folders(study()), folders(study("--arms.frozen.overrides.freeze", "[vision, connector]"))
    assert before["trained"] == after["trained"] and before["frozen"] != after["frozen"]
    more = folders(study("--train.steps", "7"))
    assert before["trained"] != more["trained"] and before["frozen"] != more["frozen"]
    fewer_workers = cells.cells(study("--eval.workers", "1"), Path("out"))
    assert [c.eval.out for c in fewer_workers] == [c.eval.out for c in cells.cells(study(), Path("out"))]


def test_other_demonstrations_make_another_store_and_other_cells() -> None:
    a, b = study(), study("--demos.per_task", "3")
    assert cells.store_folder(a, Path("o"), 96) != cells.store_folder(b, Path("o"), 96)
    assert cells.store_folder(a, Path("o"), 96) != cells.store_folder(a, Path("o"), 64)
    assert folders(a)["trained"] != folders(b)["trained"]


def test_audit_passes_the_factor_and_shows_it() -> None:
    found = audit.audit(study(), {})
    assert found["ok"]
    rows = {row["setting"]: row for row in found["rows"]}
    assert rows["freeze"]["differs"] and rows["freeze"]["allowed"]
    assert rows["policy.proprioception"]["values"] == {"trained": False, "frozen": False}


def test_unknown_task_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'drawer-open'"):
        Study(study("--tasks", "[drawer-opne, window-open]"), tmp_path, lambda _: None).run()
    assert not list(tmp_path.iterdir())


def test_estimate_counts_every_stage() -> None:
    probe = {"seconds_per_step": 0.2, "seconds_per_inference": 0.02}
    s = study()
    both = {"trained": probe, "frozen": probe}
    found = plan.estimate(s, both, MEASURED, jobs=2)
    alone = plan.estimate(s, both, MEASURED, jobs=1)
    assert found["stages"]["arms"] > 0.2 * s.train.steps
    assert found["stages"]["arms"] < alone["stages"]["arms"] <= 2 * found["stages"]["arms"]
    assert found["total_s"] == pytest.approx(sum(found["stages"].values()), abs=0.5)
    assert [line["stage"] for line in plan.describe(s, Path("o"))].count("train") == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--eval.execute", "20"], "more than the chunk"),
        (["--eval.control_episodes", "21"], "paired with"),
        (["--train.checkpoint_every", "30"], "multiple of log_every"),
        (["--arms.trained.controls", "[image-blnk]"], "image-blank"),
        (["--seeds", "[]"], "seeds"),
        (["--seeds", "[0, 0]"], "listed twice"),
        (["--arms", "{}"], "arms"),
        (["--tasks", "[]"], "tasks"),
        (["--train.optimizer.lr", "-1"], "lr"),
        (["--may_differ", "[freez]"], "no setting of train"),
        (["--train.policy.backbone.prompt", "push"], "exactly once"),
        (["--tasks", "[a"], "not a valid value"),
        (["--arms", "{'../../x': {label: x}}"], r"'\.\./\.\./x'.*should match pattern"),
        (["--arms", "{'': {label: x}}"], "should match pattern"),
        (["--arms", "{.x: {label: x}}"], "should match pattern"),
        (["--arms", "{expert: {label: x}}"], "'expert', which is the name of a reference"),
        (["--arms", "{a: {label: a}, a-s1: {label: b}}", "--seeds", "[0, 1]"], "'a-s1', as the rows of a training run"),
        (["--seeds", "[0, 1]", "--eval.episodes", "1", "--eval.control_episodes", "1"], "one start of a task"),
    ],
)
def test_a_study_that_cannot_run_is_refused_at_once(words: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        study(*words)


def test_names_that_only_look_alike_are_allowed() -> None:
    assert set(study("--arms", "{a: {label: a}, a-s1: {label: b}}").arms) == {"a", "a-s1"}  # one seed: arms are rows
    assert set(study("--arms", "{a: {label: a}, a-s7: {label: b}}", "--seeds", "[0, 1]").arms) == {"a", "a-s7"}
    assert study("--eval.episodes", "1", "--eval.control_episodes", "1").eval.episodes == 1


def test_an_unknown_camera_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no camera 'front'"):
        Study(study("--train.policy.cameras", "[front]"), tmp_path, lambda _: None).run()


def test_another_version_of_the_benchmark_shares_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    s = study()
    before = cells.cells(s, Path("o")), cells.demos(s, Path("o")), cells.references(s, Path("o"))
    identity = Study(s, tmp_path, lambda _: None).identity
    monkeypatch.setattr(registry.find("bench", s.bench).Benchmark, "id", "metaworld-v0")
    after = cells.cells(s, Path("o")), cells.demos(s, Path("o")), cells.references(s, Path("o"))
    assert before[1].out != after[1].out
    for a, b in zip((*before[0],), (*after[0],), strict=True):
        assert a.train.out != b.train.out and a.eval.out != b.eval.out
    assert all(a.out != b.out for a, b in zip(before[2], after[2], strict=True))
    assert Study(s, tmp_path, lambda _: None).identity != identity


def test_several_seeds_are_rows_of_their_own() -> None:
    found = cells.cells(study("--seeds", "[0, 3]"), Path("o"))
    assert [c.eval.arm for c in found] == ["trained-s0", "trained-s3", "frozen-s0", "frozen-s3"]
    rows = {row["setting"]: row for row in audit.audit(study("--seeds", "[0, 3]"), {})["rows"]}
    assert list(rows["batch"]["values"]) == ["trained-s0", "trained-s3", "frozen-s0", "frozen-s3"]
