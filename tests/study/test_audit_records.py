"""The audit of records: a run that did something else than the others, or than its own settings, is found out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from audited import Runs, overridden, study

from vlm4vla import records
from vlm4vla.cli.main import main
from vlm4vla.report import audited, folder
from vlm4vla.study import cells
from vlm4vla.types import UserError

Change = Callable[[dict[str, Any]], None]


def fact(**changes: Any) -> Change:
    return lambda record: record["facts"].update(changes)


def setting(path: str, value: Any) -> Change:
    def change(record: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        section = record["config"]
        for parent in parents:
            section = section[parent]
        section[last] = value

    return change


def both(*changes: Change) -> Change:
    def change(record: dict[str, Any]) -> None:
        for one in changes:
            one(record)

    return change


def hardware(**changes: Any) -> Change:
    return lambda record: record["hardware"].update(changes)


def connector_counts_as_vision(record: dict[str, Any]) -> None:
    """What the code froze, although the run says that it froze what it was told to."""
    for count in record["parameters"]:
        if count["group"] == "connector":
            count["trainable"] = 0


def test_runs_that_do_what_they_are_told_pass() -> None:
    found = Runs(study("--seeds", "[0, 3]")).audit()
    assert found["ok"] and {row["class"] for row in found["rows"]} == {"must-equal", "may-differ", "declared"}
    assert not [row["setting"] for row in found["rows"] if row["differs"] and row["setting"] != "recorded.order"]
    names = {row["setting"] for row in found["rows"]}
    assert {"recorded.order", "recorded.flops_per_sample", "evaluated.starts", "evaluated.version.renderer"} <= names


@pytest.mark.parametrize(
    ("kind", "change", "fault"),
    [
        ("trained", fact(learning_rate=1e-3), "recorded.learning_rate"),
        ("trained", fact(precision="fp32"), "recorded.precision"),
        ("trained", fact(warmup_steps=1), "recorded.warmup_steps"),
        ("trained", fact(model_pixels=64), "recorded.model_pixels"),
        ("trained", fact(sentence="Do: {instruction}"), "recorded.sentence"),
        ("trained", fact(prompt="another template"), "recorded.prompt"),
        ("trained", fact(samples_seen=100), "recorded.samples_seen"),
        ("evaluated", fact(checkpoint_step=300), "evaluated.checkpoint_step"),
        ("trained", fact(frozen_groups=[]), "recorded.frozen_groups"),
        ("evaluated", fact(center_crop=0.9), "evaluated.center_crop"),
        ("evaluated", fact(execute=2), "evaluated.execute"),
        ("evaluated", fact(candidates=5), "evaluated.candidates"),
        ("trained", fact(normalizer={"kind": "limits", "clip": 0.65}), "recorded.normalizer"),
        ("evaluated", fact(normalizer={"kind": "limits", "clip": 0.65}), "evaluated.normalizer"),
        ("trained", fact(frozen_groups=["connector", "vision"]), "recorded.frozen_groups"),
        ("trained", connector_counts_as_vision, "recorded.frozen_groups"),
        ("trained", fact(clip_norm=None), "recorded.clip_norm"),
        # and what else must be equal
        ("trained", lambda record: record["inputs"].update(store="e"), "recorded.data"),
        ("trained", fact(order="another"), "recorded.order"),
        ("trained", fact(schedule="constant"), "recorded.schedule"),
        ("trained", fact(weight_decay=[0.0]), "recorded.weight_decay"),
        ("trained", fact(augmentation={"shift": 0}), "recorded.augmentation"),
        ("trained", fact(chunk=4), "recorded.chunk"),
        ("trained", fact(head="flow"), "recorded.head"),
        ("trained", lambda record: record["packages"].update(torch="3"), "recorded.version.torch"),
        ("trained", lambda record: record["packages"].update(numpy="3"), "recorded.version.numpy"),
        ("trained", both(lambda r: r.update(dirty=True), lambda r: r["facts"].pop("commits")), "recorded.commit"),
        ("trained", fact(commits=["c", "d"]), "recorded.commit"),
        ("trained", hardware(device="cuda:0"), "recorded.device"),
        ("trained", hardware(processes=8), "recorded.processes"),
        ("evaluated", lambda record: record["packages"].update(numpy="3"), "evaluated.version.numpy"),
        ("evaluated", fact(commits=["c", "c with uncommitted changes"]), "evaluated.commit"),
        ("evaluated", hardware(device="cuda:0", gpu="Example GPU"), "evaluated.device"),
        ("evaluated", fact(starts="other"), "evaluated.starts"),
        ("evaluated", fact(split="dev"), "evaluated.split"),
        ("evaluated", fact(evaluation=2), "evaluated.evaluation"),
        ("evaluated", fact(precision="bf16"), "evaluated.precision"),
        ("evaluated", fact(step_limit=500), "evaluated.step_limit"),
        ("evaluated", lambda record: record["versions"].update(mujoco="3.3.3"), "evaluated.version.mujoco"),
        ("evaluated", lambda record: record["versions"].pop("renderer"), "evaluated.version.renderer"),
        ("evaluated", lambda record: record["inputs"].update(policy="others"), "evaluated.policy"),
        ("trained", lambda record: record["facts"].pop("precision"), "recorded.precision"),
    ],
)
def test_a_fault_in_one_run_is_caught(kind: str, change: Change, fault: str) -> None:
    runs = Runs(study())
    runs.edit(kind, "b", change)
    assert fault in runs.faults()
    others = {"evaluated.center_crop", "evaluated.normalizer", "evaluated.chunk"}  # the twins of a training's fact
    assert set(runs.faults()) - {fault} <= others | {"recorded.trainable", "evaluated.evaluation"}


@pytest.mark.parametrize(
    ("kind", "change", "fault"),
    [
        ("trained", setting("optimizer.lr", 1e-3), "recorded.config.optimizer.lr"),
        ("trained", setting("precision", "fp32"), "recorded.config.precision"),
        ("trained", setting("policy.backbone.prompt", "Do: {instruction}"), "recorded.config.policy.backbone.prompt"),
        ("trained", setting("freeze", ["vision", "connector"]), "recorded.config.freeze"),
        ("trained", setting("data.augment.crop", 0.9), "recorded.config.augment.crop"),
        ("trained", setting("seed", 9), "recorded.config.seed"),
        ("evaluated", setting("execute", 2), "evaluated.config.execute"),
        ("evaluated", setting("episodes", 5), "evaluated.config.episodes"),
        ("evaluated", setting("split", "dev"), "evaluated.config.split"),
    ],
)
def test_the_record_of_another_run_is_caught(kind: str, change: Change, fault: str) -> None:
    runs = Runs(study())
    runs.edit(kind, "b", change)
    assert fault in runs.faults()
    row = next(row for row in runs.audit()["rows"] if row["setting"] == fault)
    assert "b: the study says" in row["reason"]


def test_all_runs_doing_the_same_wrong_thing_is_a_fault_too() -> None:
    """Clipping was switched off in every run of the reference: no arm differs from another, all from their settings."""
    runs = Runs(study())
    for name in ("a", "b"):
        runs.edit("trained", name, fact(clip_norm=None))
    row = next(row for row in runs.audit()["rows"] if row["setting"] == "recorded.clip_norm")
    assert (
        runs.faults() == ["recorded.clip_norm"] and row["reason"] == "a: its settings say 1.0; b: its settings say 1.0"
    )


def test_acting_on_another_crop_than_in_training_is_a_fault_where_all_arms_do_so() -> None:
    """The reference trained all its arms on 90 % of the area, and evaluated them on all of it."""
    runs = Runs(study())
    for name in ("a", "b"):
        runs.edit("evaluated", name, fact(center_crop=0.9))
    row = next(row for row in runs.audit()["rows"] if row["setting"] == "evaluated.center_crop")
    assert runs.faults() == ["evaluated.center_crop"] and row["reason"].startswith("a: its training has None")


def test_the_factor_excuses_what_follows_from_it_and_no_run_that_disobeys() -> None:
    frozen = study("--may_differ", "[freeze]", "--arms.b.overrides", "{freeze: []}")
    trainable: Change = lambda record: record["parameters"][0].update(trainable=5)  # noqa: E731
    runs = Runs(frozen)
    runs.edit("trained", "b", both(fact(frozen_groups=[]), trainable))
    assert runs.audit()["ok"]
    runs = Runs(frozen)  # the run froze vision although its arm does not
    assert runs.faults() == ["recorded.frozen_groups"]


def test_what_is_native_may_differ_between_models_only() -> None:
    other = study(
        "--may_differ", "[policy.backbone.family]", "--arms.b.overrides", "{policy.backbone.family: paligemma}"
    )
    changes = fact(prompt="its own", image_tokens=256, tokens_per_sample=280, attention_mask="bidirectional-prefix")
    runs = Runs(other)
    runs.edit("trained", "b", changes)
    found = runs.audit()
    shown = {row["setting"]: row["reason"] for row in found["rows"] if row["differs"] and row["class"] == "may-differ"}
    assert found["ok"] and shown["recorded.prompt"] == "native to the model" and len(shown) == 4
    runs = Runs(study())
    runs.edit("trained", "b", changes)
    assert len(runs.faults()) == 4


def test_an_arm_with_larger_pictures_is_excused_where_they_are_the_factor() -> None:
    larger = study("--may_differ", "[policy.backbone.image_size, policy.backbone.view_size]",
                   "--arms.b.overrides", "{policy.backbone.image_size: 128}")  # fmt: skip
    runs = Runs(larger)
    changes = fact(model_pixels=128, image_pixels=[[128, 128]], image_tokens=16, shares={"e": 1.0})
    runs.edit("trained", "b", both(changes, lambda record: record["inputs"].update(store="e")))
    assert runs.audit()["ok"]


def test_a_waiver_excuses_a_recorded_fault_and_is_printed_with_it() -> None:
    waived = study("--waived", "{recorded.version: one node was updated, recorded.clip_norm: known}")
    runs = Runs(waived)
    runs.edit("trained", "b", both(lambda r: r["packages"].update(torch="3"), fact(clip_norm=None)))
    found = {row["setting"]: row for row in runs.audit()["rows"]}
    assert runs.audit()["ok"]
    assert found["recorded.version.torch"]["reason"] == "waived: one node was updated"
    assert found["recorded.clip_norm"]["reason"] == "waived: known (b: its settings say 1.0)"


def test_a_study_over_days_says_why_its_source_changed() -> None:
    runs = Runs(study("--waived", "{recorded.commit: a sentence was mended, evaluated.commit: so it was}"))
    runs.edit("trained", "b", fact(commits=["c", "d"]))
    runs.edit("evaluated", "b", fact(commits=["d", "c", "d"]))
    found = {row["setting"]: row for row in runs.audit()["rows"]}
    assert runs.audit()["ok"]
    assert found["recorded.commit"]["values"] == found["evaluated.commit"]["values"] == {"a": "c", "b": "c, d"}


def test_one_kind_of_gpu_is_one_device_and_another_is_not() -> None:
    runs = Runs(study())
    for kind in ("trained", "evaluated"):
        runs.edit(kind, "a", hardware(device="cuda:0", gpu="GPU 1"))
        runs.edit(kind, "b", hardware(device="cuda:3", gpu="GPU 1"))
    assert runs.audit()["ok"]
    runs.edit("trained", "b", hardware(device="cuda:0", gpu="GPU 2"))
    assert runs.faults() == ["recorded.device"]


def test_a_moved_checkpoint_is_a_fault_whatever_the_factor_is() -> None:
    names = "[policy.backbone]"
    runs = Runs(study("--may_differ", names, "--train.policy.backbone.checkpoint", "owner/vlm"))
    runs.edit("trained", "a", fact(checkpoint_commit="a1"))
    runs.edit("trained", "b", fact(checkpoint_commit="b2"))
    assert runs.faults() == ["recorded.checkpoint_commit"]


def test_the_factor_excuses_no_difference_between_runs_that_agree_in_it() -> None:
    words = ("--seeds", "[0, 3]", "--arms.b.overrides", "{batch: 32}", "--may_differ", "[batch]")
    runs = Runs(study(*words))
    for name in ("b-s0", "b-s3"):
        runs.edit("trained", name, fact(batch=32, samples_seen=19200, epochs=1.5))
    assert runs.audit()["ok"]
    runs.edit("trained", "b-s3", fact(epochs=1.2))  # the same arm, and fewer epochs in one of its runs
    assert runs.faults() == ["recorded.epochs"]


def selected(step: int, execute: int) -> Change:
    tried = [{"step": s, "execute": e, "score": 0.5} for s in (300, 600) for e in (4, 8)]
    rule = {"on": "dev", "episodes": 5, "candidates": tried, "chosen": {"step": step, "execute": execute, "score": 0.5}}

    def change(record: dict[str, Any]) -> None:
        record["config"] |= {"selection": rule, "execute": execute}
        record["facts"] |= {"selection": rule, "candidates": 4, "execute": execute, "checkpoint_step": step}
        record["inputs"]["policy"] = "kept weights" if step == 300 else record["inputs"]["policy"]

    return change


def test_a_declared_rule_may_choose_otherwise_for_every_arm() -> None:
    rule = "{'on': dev, episodes: 5, checkpoints: [300, 600], execute: [4, 8]}"
    runs = Runs(study("--select", rule))
    runs.edit("trained", "b", fact(kept={"300": "kept weights"}))
    runs.edit("evaluated", "a", selected(600, 4))
    runs.edit("evaluated", "b", selected(300, 8))
    found = {row["setting"]: row for row in runs.audit()["rows"]}
    assert runs.audit()["ok"] and found["evaluated.candidates"]["values"] == {"a": 4, "b": 4}
    for line in ("evaluated.execute", "evaluated.checkpoint_step"):
        assert found[line]["differs"] and found[line]["reason"] == "chosen by the declared rule"
    runs.edit("evaluated", "b", fact(checkpoint_step=600))  # another policy than the chosen one
    assert runs.faults() == ["evaluated.checkpoint_step"]
    runs.edit("evaluated", "b", both(fact(checkpoint_step=300), lambda r: r["inputs"].update(policy="unknown")))
    assert runs.faults() == ["evaluated.policy"]
    fewer = Runs(study("--select", rule))
    fewer.edit("trained", "b", fact(kept={"300": "kept weights"}))
    fewer.edit("evaluated", "a", selected(600, 4))
    fewer.edit("evaluated", "b", both(selected(300, 8), lambda r: r["config"]["selection"]["candidates"].pop()))
    assert fewer.faults() == ["evaluated.selection"]


def test_rates_of_a_declared_grid_are_rates_of_the_study() -> None:
    grid = "{equal-budget: {factors: [0.5, 1], seed: 9}}"
    runs = Runs(study("--lr_policy", grid))
    runs.edit("trained", "b", both(setting("optimizer.lr", 2.5e-4), fact(learning_rate=2.5e-4)))
    assert runs.audit()["ok"]
    runs.edit("trained", "b", both(setting("optimizer.lr", 1e-4), fact(learning_rate=1e-4)))
    assert runs.faults() == ["recorded.config.optimizer.lr"]


def test_the_folder_of_a_study_is_audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = study()
    runs = Runs(config)
    runs.edit("evaluated", "b", fact(execute=2))
    found = cells.cells(config, tmp_path)
    for cell in found:
        records.write_one(cell.train.out / "run.json", runs.trained[cell.name])
        records.write_one(cell.eval.out / "run.json", runs.evaluated[cell.name])
    file = tmp_path / "study.json"
    file.write_text(json.dumps(config.model_dump(mode="json")))
    words = ["study", "audit", str(file), "--out", str(tmp_path)]
    assert main(words) == 1 and "The audit failed: evaluated.execute." in capsys.readouterr().out
    unfinished = runs.evaluated["b"].model_copy(update={"finished": None})
    records.write_one(found[1].eval.out / "run.json", unfinished)
    assert main([*words, "--json"]) == 0
    told = {row["setting"]: row["values"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert list(told["evaluated.execute"]) == ["a"] and list(told["recorded.batch"]) == ["a", "b"]


def test_the_report_shows_faults_first_then_what_is_native_even_where_it_is_equal() -> None:
    runs = Runs(study("--waived", "{recorded.commit: a sentence was mended}"))
    runs.edit("trained", "b", fact(commits=["d"], chunk=4))
    read = folder.Audit.model_validate_json(json.dumps(runs.audit()))
    columns = [audited.Column(arm, arm, ((arm, arm),)) for arm in ("a", "b")]
    lines = [audited.audit_line(row, columns, read.factor) for row in read.rows]
    verdicts = {line.setting: line.verdict for line in lines}
    assert verdicts["recorded.chunk"] == "fault" and verdicts["recorded.prompt"] == "native"
    waived = next(line for line in lines if line.setting == "recorded.commit")
    assert (waived.verdict, waived.reason) == ("allowed", "waived: a sentence was mended")
    assert waived.values == ["c", "d"] and verdicts["recorded.batch"] == "equal"


def test_a_record_of_something_else_is_refused() -> None:
    runs = Runs(study())
    runs.edit("trained", "b", lambda record: record["config"].pop("steps"))
    with pytest.raises(UserError, match="'steps' is missing in the record of b"):
        runs.audit()


def test_arms_with_overrides_are_audited_by_their_own_settings() -> None:
    config = overridden("{optimizer.lr: 1.0e-3}").model_copy(update={"may_differ": ("optimizer.lr",)})
    runs = Runs(config)
    assert runs.faults() == ["recorded.learning_rate"]  # it trained with the other arm's rate
    runs.edit("trained", "b", fact(learning_rate=1e-3))
    assert runs.audit()["ok"]
