"""Token-matched studies: arms that spend other numbers of image tokens fail the audit, and are told what would fit."""

import pytest
from audited import Runs, study

from vlm4vla.schemas import StudyConfig
from vlm4vla.study import audit, audit_resolution
from vlm4vla.types import UserError

KEY = audit_resolution.SETTING


def arms(**overrides: str) -> StudyConfig:
    """Arms with overrides of the tiny study, under the token-matched protocol; the backbone may differ."""
    text = ", ".join(f"{name}: {{label: {name}, overrides: {{{words}}}}}" for name, words in overrides.items())
    names = "[policy.backbone.family, policy.backbone.image_size, policy.backbone.checkpoint]"
    return study("--resolution", "token-matched", "--arms", f"{{{text}}}", "--may_differ", names)


def line(found: dict) -> dict:
    (row,) = [row for row in found["rows"] if row["setting"] == KEY]
    return row


def test_native_studies_count_nothing_before_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_resolution, "image_tokens", None)
    found = audit.audit(study(), {})
    assert found["ok"] and KEY not in [row["setting"] for row in found["rows"]]


def test_equal_counts_of_two_families_pass() -> None:
    found = audit.audit(arms(a="", b="policy.backbone.family: paligemma"), {})
    assert found["ok"] and line(found)["values"] == {"a": 9, "b": 9}


def test_other_counts_fail_and_the_sizes_that_would_fit_are_named() -> None:
    """96 pixels are 3 x 3 tokens of 32 pixels, 128 are 4 x 4: 16 is more than 1.25 times 9."""
    found = audit.audit(arms(a="", b="policy.backbone.image_size: 128"), {})
    assert KEY in found["faults"] and line(found)["values"] == {"a": 9, "b": 16}
    reason = line(found)["reason"]
    assert "a: 9 image tokens, image_size" in reason and "b: 16 image tokens, image_size" in reason
    proposed = [int(part.strip("; ").split(";")[0]) for part in reason.split("would give ")[1:]]
    assert proposed == [9, 9]  # what the first has already: the nearest to what both have


def test_a_family_of_one_size_decides_for_the_others() -> None:
    """The tiny Kosmos-2 has nine latents whatever it sees: the other arm is told the size with as many tokens."""
    found = audit.audit(arms(a="policy.backbone.image_size: 160", b="policy.backbone.family: kosmos2"), {})
    assert "a: 25 image tokens, image_size 96 would give 9; b: 9 image tokens, image_size 96 would give 9" in str(
        line(found)["reason"]
    )


def test_published_sizes_that_cannot_meet_are_told_so() -> None:
    """1485 tokens of one picture against 256, and both encoders take one size alone."""
    words = "policy.backbone.family: {}, policy.backbone.checkpoint: 'preset:{}', policy.backbone.image_size: {}"
    fixed, large = words.format("paligemma", "3b-224", 224), words.format("llava_onevision", "0.5b", 384)
    row = line(audit.audit(arms(a=fixed, b=large), {}))
    assert row["values"] == {"a": 256, "b": 1485} and not row["allowed"]
    assert "and no sizes are near enough" in row["reason"]


def test_within_a_quarter_is_allowed_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {96: 64, 128: 80}
    monkeypatch.setattr(audit_resolution, "image_tokens", lambda policy: counts[policy.backbone.image_size])
    matched = arms(a="", b="policy.backbone.image_size: 128")
    row = line(audit.audit(matched, {}))
    assert row["differs"] and row["allowed"] and "within 25 %" in row["reason"]
    counts[128] = 81
    assert not line(audit.audit(matched, {}))["allowed"]


def test_a_waiver_with_its_reason_lets_them_differ() -> None:
    wide = arms(a="", b="policy.backbone.image_size: 128")
    excused = wide.model_copy(update={"waived": {KEY: "shown for comparison", "effective.shift_of_side": "follows"}})
    assert line(audit.audit(excused, {}))["allowed"]


def test_cameras_and_windows_count() -> None:
    policy = arms(a="").train.policy
    more = policy.model_copy(update={"cameras": ("a", "b"), "window": 3})
    assert audit_resolution.image_tokens(more) == 6 * audit_resolution.image_tokens(policy) == 54


def test_a_run_that_saw_other_tokens_than_its_settings_say_is_a_fault() -> None:
    runs = Runs(study("--resolution", "token-matched"))
    assert runs.faults() == []
    runs.edit("trained", "b", lambda plain: plain["facts"].update(image_tokens=36))
    assert KEY in runs.faults()
    assert "b: its settings come to 9 image tokens, its run saw 36" in line(runs.audit())["reason"]


def test_reported_counts_are_compared_and_must_be_numbers() -> None:
    config = arms(a="", b="").model_copy()
    told = config.arms["b"].model_copy(update={"reported": {"image_tokens": 64}})
    row = line(audit.audit(config.model_copy(update={"arms": {**config.arms, "b": told}}), {}))
    assert row["values"] == {"a": 9, "b": 64} and not row["allowed"] and "b: 64 image tokens, reported" in row["reason"]
    told = told.model_copy(update={"reported": {"image_tokens": "about 64"}})
    with pytest.raises(UserError, match="Arm 'b' reports 'about 64' image tokens"):
        audit.audit(config.model_copy(update={"arms": {**config.arms, "b": told}}), {})
