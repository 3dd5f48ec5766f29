"""Arms that start from a pretext: trained once per backbone, handed on without its head, told by plan and audit."""

from pathlib import Path

import pytest
import yaml
from audited import Runs
from fake_stages import Stages

from vlm4vla import config as configs
from vlm4vla.schemas import StudyConfig
from vlm4vla.study import audit, cells, plan, status
from vlm4vla.study.run import Study
from vlm4vla.types import RunFailed, UserError

STUDIES = Path(__file__).parents[2] / "studies"
FILE = STUDIES / "tiny" / "from_scratch.yaml"
SHORT = ["--seeds", "[1, 2]"]


def study(*words: str) -> StudyConfig:
    return configs.load(StudyConfig, FILE, [*SHORT, *words])


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    return Stages().installed(monkeypatch)


def test_it_is_trained_once_for_each_backbone_before_the_arms(stages: Stages, tmp_path: Path) -> None:
    config = study()
    Study(config, tmp_path, lambda _: None, jobs=1).run()
    first = cells.pretexts(config, tmp_path)
    assert [cell.train.policy.backbone.family for cell in first] == ["qwen3_vl", "paligemma"]
    trained = [Path(where).parent.name for verb, where in stages.calls if verb == "train"]
    assert trained[:2] == [cell.folder.name for cell in first] and len(trained) == 2 + 4 * 2
    assert [verb for verb, _ in stages.calls].count("export") == 2
    for cell in first:
        assert cell.train.policy.backbone.init == "scratch" and cell.train.steps == 300 and cell.train.seed == 0
        assert cell.eval.split == "dev" and cell.eval.tasks == config.pretext.tasks  # type: ignore[union-attr]
    starts = {cell.name: cell.train.policy.backbone for cell in cells.cells(config, tmp_path)}
    assert starts["paligemma-tuned-s1"].checkpoint == starts["paligemma-tuned-s2"].checkpoint == str(first[1].vlm)
    assert starts["paligemma-tuned-s1"].init == "pretrained"
    assert starts["paligemma-scratch-s1"].checkpoint == "preset:tiny"
    stages.calls = []
    (tmp_path / "finished.json").unlink()
    Study(config, tmp_path, lambda _: None, jobs=1).run()
    assert not {verb for verb, _ in stages.calls} & {"train", "eval", "export"}


def test_one_that_fails_stops_the_arms_that_need_it_alone(stages: Stages, tmp_path: Path) -> None:
    config = study()
    stages.broken = ["pretext-paligemma"]
    with pytest.raises(RunFailed, match=r"pretext-paligemma-.*: train ended with status 1"):
        Study(config, tmp_path, lambda _: None, jobs=1).run()
    found = {part["name"]: part["state"] for part in status.status(config, tmp_path)["parts"]}
    assert found["paligemma-tuned-s1"] == "missing"
    assert {found[f"{arm}-s1"] for arm in ("qwen3_vl-tuned", "qwen3_vl-scratch", "paligemma-scratch")} == {"finished"}
    stages.broken, stages.calls = [], []
    Study(config, tmp_path, lambda _: None, jobs=1).run()
    assert stages.count("train") == 1 + 2


def test_arms_that_freeze_different_parts_share_it() -> None:
    config = configs.load(StudyConfig, STUDIES / "tiny" / "freezing.yaml")
    first = cells.pretexts(config, Path("o"))
    assert len(first) == 2 and all(cell.train.freeze == () for cell in first)
    assert {cell.start for cell in cells.cells(config, Path("o"))} == {cell.vlm for cell in first}


def test_its_settings_name_the_cells_that_start_from_it_and_no_others() -> None:
    before = {cell.name: cell.folder for cell in cells.cells(study(), Path("o"))}
    after = {cell.name: cell.folder for cell in cells.cells(study("--pretext.steps", "400"), Path("o"))}
    assert {name for name in before if before[name] != after[name]} == {
        f"{family}-tuned-s{seed}" for family in ("qwen3_vl", "paligemma") for seed in (1, 2)
    }


def test_plan_and_audit_tell_it() -> None:
    lines = plan.describe(study(), Path("runs"))
    assert [line["arm"][:16] for line in lines if line["stage"] == "pretext"] == [
        "pretext-qwen3_vl",
        "pretext-paligemm",
    ]
    made: set[str] = set()
    for line in lines:  # what a stage needs has been made before, and nothing is made twice
        assert made.issuperset(line["needs"]), line
        assert line.get("folder") not in made
        made |= {line["folder"]} if "folder" in line else set()
    tuned = next(line for line in lines if line["stage"] == "train")
    assert [name.split("-")[0] for name in tuned["needs"]] == ["store", "pretext"]
    found = audit.audit(study(), {})
    told = next(x for x in audit.sentences(found) if "policy.backbone.checkpoint" in x)
    assert "preset:tiny" in told and "pretext" in told and found["ok"]


def test_the_audit_notices_a_run_that_started_elsewhere() -> None:
    runs = Runs(study())
    key = "recorded.config.policy.backbone.checkpoint"
    assert key not in runs.faults()

    def elsewhere(plain: dict) -> None:  # type: ignore[type-arg]
        plain["config"]["policy"]["backbone"]["checkpoint"] = "some/other/vlm"

    runs.edit("trained", "qwen3_vl-tuned-s1", elsewhere)
    assert key in runs.faults()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--arms.qwen3_vl-tuned.overrides", "{policy.backbone.checkpoint: pretext}"], "init: pretrained"),
        (["--pretext", "null"], "section `pretext`"),
        (["--pretext.tasks", "[window-opne]"], "window-open"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(words: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        Study(study(*words), tmp_path, lambda _: None).check()


def test_a_pretext_needs_demonstrations() -> None:
    plain = yaml.safe_load(FILE.read_text()) | {"demos": None, "data": {"source": "x", "format": "rlds"}}
    with pytest.raises(UserError, match="a pretext is trained on demonstrations"):
        configs.validate(StudyConfig, plain, source="x")
