"""Studies of heads and of update strategies: each VLM with every one of them, alike in all else; what runs record."""

from collections import defaultdict
from pathlib import Path

import pytest
from audited import Runs, study

from vlm4vla import config as configs
from vlm4vla.schemas import StudyConfig
from vlm4vla.study import cells

STUDIES = Path(__file__).parents[2] / "studies"
FLOW = "{policy.head: {name: flow}}"
STRATEGIES = {
    "all": ([], 1.0),
    "slow": ([], 0.1),
    "eyes_frozen": (["vision", "connector"], 1.0),
    "language": (["vision", "connector", "embedding"], 1.0),
    "new": (["vision", "connector", "language", "embedding"], 1.0),
}


def of_a_vlm(file: Path) -> dict[str, dict[str, dict[str, object]]]:
    """VLM -> kind -> settings, of a study whose arms are called VLM-KIND."""
    config = configs.load(StudyConfig, file)
    found: dict[str, dict[str, dict[str, object]]] = defaultdict(dict)
    for arm in config.arms:
        vlm, kind = arm.rsplit("-", 1)
        found[vlm][kind] = configs.to_dict(cells.recipe(config, arm))
    return found


@pytest.mark.parametrize("file", [*STUDIES.glob("head_*.yaml"), STUDIES / "tiny" / "head.yaml"], ids=lambda f: f.stem)
def test_the_heads_of_a_vlm_differ_in_the_head_alone(file: Path) -> None:
    for kinds in of_a_vlm(file).values():
        assert {kind: settings["policy"]["head"]["name"] for kind, settings in kinds.items()} == {
            "regression": "regression",
            "flow": "flow",
        }
        changed = configs.diff(kinds["regression"], kinds["flow"])
        assert changed and all(key.startswith("policy.head.") for key in changed)


@pytest.mark.parametrize(
    "file", [*STUDIES.glob("update_strategy_*.yaml"), STUDIES / "tiny" / "update_strategy.yaml"], ids=lambda f: f.stem
)
def test_the_strategies_of_a_vlm_differ_in_what_is_updated_and_how_fast(file: Path) -> None:
    for kinds in of_a_vlm(file).values():
        told = {kind: (s["freeze"], s["optimizer"]["vlm_lr_scale"]) for kind, s in kinds.items()}
        assert told == STRATEGIES
        for settings in kinds.values():
            assert set(configs.diff(kinds["all"], settings)) <= {"freeze", "optimizer.vlm_lr_scale"}


def test_all_three_benchmarks_have_both_studies() -> None:
    names = {f"{kind}_{bench}" for kind in ("head", "update_strategy") for bench in ("calvin", "simpler", "libero")}
    assert names <= {file.stem for file in STUDIES.glob("*.yaml")}


def test_what_follows_from_the_head_may_differ_and_what_does_not_is_a_fault() -> None:
    arms = ("--arms", f"{{a: {{label: a}}, b: {{label: b, overrides: {FLOW}}}}}", "--may_differ", "[policy.head]")
    runs = Runs(study(*arms))
    runs.edit("trained", "b", lambda record: record["facts"].update(head="flow", flops_per_sample=11))
    runs.edit("trained", "b", lambda record: record["parameters"][-1].update(total=9, trainable=9))
    assert runs.audit()["ok"]
    same = Runs(study())
    same.edit("trained", "b", lambda record: record["facts"].update(flops_per_sample=11))
    assert same.faults() == ["recorded.flops_per_sample"]
    runs.edit("trained", "b", lambda record: record["facts"].update(head="regression"))
    assert runs.faults() == ["recorded.head"]


def test_a_rate_of_the_vlms_own_is_audited_like_any_other() -> None:
    slow = ("--train.optimizer.vlm_lr_scale", "1.0", "--may_differ", "[optimizer.vlm_lr_scale]")
    arms = ("--arms", "{a: {label: a}, b: {label: b, overrides: {optimizer.vlm_lr_scale: 0.1}}}")
    runs = Runs(study(*slow, *arms))
    assert runs.faults() == ["recorded.learning_rate"], "b trained its VLM at the full rate"
    runs.edit("trained", "b", lambda record: record["facts"].update(learning_rate=[5e-4, 5e-5]))
    assert runs.audit()["ok"]
    unnamed = Runs(study(*slow[:2], "--may_differ", "[]", *arms))
    unnamed.edit("trained", "b", lambda record: record["facts"].update(learning_rate=[5e-4, 5e-5]))
    assert set(unnamed.faults()) == {"optimizer.vlm_lr_scale", "recorded.learning_rate"}
