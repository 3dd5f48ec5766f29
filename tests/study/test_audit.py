"""The audit of settings: what the factor does not name is a fault, a waiver needs a reason, the released one fails."""

from pathlib import Path

import pytest
from audited import overridden, study

from vlm4vla import config as configs
from vlm4vla.cli.main import main
from vlm4vla.schemas import StudyConfig
from vlm4vla.study import audit
from vlm4vla.study.run import Study
from vlm4vla.types import UserError

STUDIES = Path(__file__).parents[2] / "studies"
PROMPT = "{policy.backbone.prompt: 'Do: {instruction}'}"


def rows(found: dict) -> dict[str, dict]:
    return {row["setting"]: row for row in found["rows"]}


def test_equal_arms_pass() -> None:
    found = audit.audit(study(), {})
    assert found["ok"] and not found["faults"]
    assert not [row["setting"] for row in found["rows"] if row["differs"]]
    assert rows(found)["eval.execute"]["values"] == {"a": 4, "b": 4}


@pytest.mark.parametrize(
    ("overrides", "faults"),
    [
        ("{optimizer.lr: 1.0e-3}", ["optimizer.lr"]),
        ("{precision: fp32}", ["precision"]),
        ("{optimizer.warmup_steps: 0}", ["optimizer.warmup_steps"]),
        ("{policy.backbone.image_size: 64}", ["policy.backbone.image_size", "effective.shift_of_side"]),
        (PROMPT, ["policy.backbone.prompt"]),
        ("{steps: 300}", ["steps", "effective.samples_seen"]),
        ("{freeze: []}", ["freeze", "effective.frozen_groups"]),
        ("{augment.crop: 0.9}", ["augment.crop", "effective.evaluation_crop"]),
        ("{policy.normalizer.clip: 0.65}", ["policy.normalizer.clip"]),
        (
            "{freeze: [vision-as-in-paper]}",  # with the connector, in this family
            ["freeze", "effective.frozen_groups", "effective.frozen_with_vision"],
        ),
        ("{optimizer.clip_norm: 0}", ["optimizer.clip_norm"]),
        ("{batch: 32}", ["batch", "effective.samples_seen"]),
        ("{optimizer.weight_decay: 0}", ["optimizer.weight_decay"]),
        ("{optimizer.schedule: constant}", ["optimizer.schedule"]),
        ("{policy.chunk: 4}", ["policy.chunk"]),
        ("{policy.head.gripper_weight: 1}", ["policy.head.gripper_weight"]),
        ("{policy.proprioception: true}", ["policy.proprioception"]),
        ("{augment.shift: 0}", ["augment.shift", "effective.shift_of_side"]),
    ],
)
def test_a_fault_in_one_arm_is_caught_before_anything_runs(overrides: str, faults: list[str], tmp_path: Path) -> None:
    wrong = overridden(overrides)
    assert audit.audit(wrong, {})["faults"] == faults
    with pytest.raises(UserError, match="the factor does not name"):
        Study(wrong, tmp_path, lambda _: None).run()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["select.on: eval", "select.checkpoints: [300]", "eval.execute: 2", "eval.episodes: 5"])
def test_rule_of_selection_and_horizon_belong_to_the_study_and_not_to_an_arm(key: str) -> None:
    with pytest.raises(UserError, match=f"Unknown setting '{key.split('.')[0]}'"):
        audit.audit(overridden(f"{{{key}}}"), {})


def test_the_factor_and_what_follows_from_it_are_allowed_and_marked() -> None:
    found = rows(audit.audit(study("--arms.b.overrides", "{batch: 32}", "--may_differ", "[batch]"), {}))
    for key in ("batch", "effective.samples_seen"):
        assert found[key]["differs"] and found[key]["allowed"] and found[key]["reason"] == study().factor


def test_frozen_vision_means_one_thing_even_where_freezing_is_the_factor() -> None:
    """The reference froze the merger of one family with its encoder, and the projector of no other."""
    words = ("--may_differ", "[freeze, policy.backbone.family]", "--train.freeze", "[vision-as-in-paper]")
    mixed = study(*words, "--arms.b.overrides", "{policy.backbone.family: paligemma}")
    found = audit.audit(mixed, {})
    assert found["faults"] == ["effective.frozen_with_vision"]
    assert rows(found)["effective.frozen_with_vision"]["values"] == {"a": ["connector", "vision"], "b": ["vision"]}
    assert rows(found)["effective.frozen_groups"]["allowed"]
    whole = "[vision, connector, language, embedding]"
    everything = study("--may_differ", "[freeze]", "--arms.b.overrides", f"{{freeze: {whole}}}")
    assert audit.audit(everything, {})["ok"]  # the whole model is frozen there, not its vision


def test_a_waiver_with_its_reason_covers_a_setting_and_what_follows_from_it() -> None:
    waived = study("--arms.b.overrides", "{steps: 300}", "--waived", "{steps: the larger model was cut short}")
    found = audit.audit(waived, {})
    assert found["ok"]
    for key in ("steps", "effective.samples_seen"):
        assert rows(found)[key]["reason"] == "waived: the larger model was cut short" and rows(found)[key]["differs"]
    other = study("--arms.b.overrides", "{batch: 32}", "--waived", "{steps: the larger model was cut short}")
    assert audit.audit(other, {})["faults"] == ["batch"]  # samples seen follow from the waived setting as well


def test_a_waiver_without_a_reason_or_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"waived\.batch"):
        study("--waived", "{batch: ' '}")
    with pytest.raises(UserError, match="Did you mean 'batch'"):
        audit.audit(study("--waived", "{bach: because}"), {})
    assert audit.audit(study("--waived", "{recorded.cpu: two kinds of node, evaluated.version.mujoco: b}"), {})["ok"]


def test_what_cannot_be_equalised_is_declared() -> None:
    arms = (
        "{a: {label: a, overrides: {policy.backbone.init: pretrained, policy.backbone.checkpoint: o/a}, "
        "declared: {pretraining: web pages, released: 2025-01, robots: documented, simulators: not documented}}, "
        "b: {label: b}}"
    )
    names = "[policy.backbone.init, policy.backbone.checkpoint]"
    found = audit.audit(study("--arms", arms, "--may_differ", names), {})
    declared = {row["setting"]: row["values"] for row in found["rows"] if row["class"] == "declared"}
    nothing = "none: random weights"
    assert found["ok"] and declared == {
        "pretraining data": {"a": "web pages", "b": nothing},
        "release date": {"a": "2025-01", "b": nothing},
        "exposure to robots": {"a": "documented", "b": nothing},
        "exposure to these simulators": {"a": "not documented", "b": nothing},
    }
    with pytest.raises(UserError, match="robots"):
        study("--arms.a.declared.robots", "maybe")


def test_reported_settings_are_audited_and_never_run(tmp_path: Path) -> None:
    reported = "{precision: fp16, eval.execute: 2, candidates: 20, image_tokens: 64}"
    wrong = study("--arms.b.reported", reported)
    found = audit.audit(wrong, {})
    assert found["faults"] == ["precision", "eval.execute", "candidates"]
    assert rows(found)["candidates"]["values"] == {"a": "not stated", "b": 20}
    assert rows(found)["image_tokens"]["class"] == "may-differ" and rows(found)["image_tokens"]["differs"]
    waived = study("--arms.b.reported", reported, "--waived", "{precision: a, eval: b, candidates: c}")
    assert audit.audit(waived, {})["ok"]
    with pytest.raises(UserError, match="reported by others"):
        Study(waived, tmp_path, lambda _: None).run()


def test_the_released_settings_fail_with_the_differences_that_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    """The paper speaks of one recipe; its code has these differences (and two framings of the instruction)."""
    file = STUDIES / "released.yaml"
    found = audit.audit(configs.load(StudyConfig, file), {})
    values = {key: row["values"] for key, row in rows(found).items()}
    assert set(found["faults"]) == {
        "optimizer.lr", "precision", "policy.backbone.dtype", "policy.backbone.image_size", "policy.backbone.prompt",
        "batch", "effective.samples_seen", "Bridge: a candidate checkpoint every", "CALVIN: random shift",
    }  # fmt: skip
    assert (values["optimizer.lr"]["kosmos-2"], values["optimizer.lr"]["qwen2.5-vl-3b"]) == (5e-5, 2e-5)
    assert (values["precision"]["paligemma-1"], values["precision"]["internvl3.5-4b"]) == ("fp16", "bf16")
    largest = "qwen3-vl-30b-a3b"
    assert (values["batch"][largest], values["optimizer.lr"][largest]) == (1024, 4e-5)
    assert {values["policy.backbone.image_size"][n] for n in ("kosmos-2", "qwen3-vl-8b")} == {224, 448}
    assert set(values["image_tokens"].values()) == {64, 196, 256}
    assert len(set(values["Bridge: a candidate checkpoint every"].values())) == 6
    assert values["CALVIN: random shift"]["internvl3.5-4b"] == "10 pixels of 448"
    assert main(["study", "audit", str(file)]) == 1
    told = capsys.readouterr().out
    for fault in found["faults"]:
        assert f"\n  {fault}: " in told and fault in told.splitlines()[-1]
    assert "5e-05 (kosmos-2, paligemma-1); 2e-05 (qwen2.5-vl-3b, " in told and "64 (kosmos-2)" in told
