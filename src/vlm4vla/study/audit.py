"""Do the arms differ in nothing but the named factor? Asked of the settings, and of what the runs recorded.

*must-equal*: any difference is a fault unless the study's ``may_differ`` names the key (then the reason is the factor).
*may-differ*: native to a VLM, always shown (prompt, tokens, pixels). *declared*: cannot be equalised.
"""

from collections.abc import Mapping
from typing import Any

from vlm4vla import config as configs
from vlm4vla.records import RunRecord
from vlm4vla.schemas import StudyConfig
from vlm4vla.study import cells

NATIVE = (
    "tokens_per_sample",
    "image_tokens",
    "model_pixels",
    "image_pixels",
    "prompt",
    "query_position",
    "attention_kernel",
    "dropout",
)
RECORDED = {
    "center_crop": ("augment.crop",),
    "pictures_per_camera": ("policy.window",),
    "proprioception": ("policy.proprioception",),
    "samples_seen": ("steps", "batch"),
    "epochs": ("steps", "batch"),
    "frozen_groups": ("freeze",),
    "checkpoint_commit": ("policy.backbone.checkpoint", "policy.backbone.revision"),
}
"""Recorded facts that must be equal, each with the settings that it follows from."""


NOTES = {"may-differ": "native to the model", "declared": "cannot be equalised"}
PRETRAINING = {"scratch": "none: random weights", "pretrained": "as published with the checkpoint"}
"""What cannot be equalised is declared."""


def audit(study: StudyConfig, runs: Mapping[str, RunRecord]) -> dict[str, Any]:
    """Rows of the audit table; ``runs`` (row name -> training record) may be empty before anything has run."""
    settings = {
        cells.row_name(study, arm, seed): configs.flatten(configs.to_dict(cells.recipe(study, arm)))
        for arm in study.arms
        for seed in study.seeds
    }
    rows = [_row(study, key, {name: flat.get(key) for name, flat in settings.items()}) for key in _keys(settings)]
    for fact in (*RECORDED, *NATIVE):
        values = {arm: record.facts[fact] for arm, record in runs.items() if fact in record.facts}
        if values:
            follows = RECORDED.get(fact, ())
            kind = "may-differ" if fact in NATIVE else "must-equal"
            rows.append(_row(study, f"recorded.{fact}", values, kind, follows))
    rows += _moved_checkpoints(study, runs)
    for name, values in _inputs(runs).items():
        rows.append(_row(study, f"recorded.{name}", values))
    backbones = {name: flat["policy.backbone.init"] for name, flat in settings.items()}
    rows.append(
        _row(study, "pretraining data", {name: PRETRAINING[init] for name, init in backbones.items()}, "declared")
    )
    faults = [row["setting"] for row in rows if row["differs"] and not row["allowed"]]
    return {"factor": study.factor, "rows": rows, "ok": not faults, "faults": faults}


def _keys(settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    seen: dict[str, None] = {}
    for flat in settings.values():
        seen.update(dict.fromkeys(flat))
    return list(seen)


def _row(
    study: StudyConfig, key: str, values: dict[str, Any], kind: str = "must-equal", follows: tuple[str, ...] = ()
) -> dict[str, Any]:
    """``follows``: the settings that a recorded fact is a consequence of."""
    differs = len({repr(value) for value in values.values()}) > 1
    named = any(k == n or k.startswith(f"{n}.") for k in (key, *follows) for n in study.may_differ)
    allowed = kind != "must-equal" or named
    reason = study.factor if differs and named else NOTES.get(kind)
    return {"setting": key, "class": kind, "values": values, "differs": differs, "allowed": allowed, "reason": reason}


def _moved_checkpoints(study: StudyConfig, runs: Mapping[str, RunRecord]) -> list[dict[str, Any]]:
    """One checkpoint on the hub, two commits: somebody pushed while the study ran. No factor allows that."""
    commits: dict[str, dict[str, Any]] = {}
    for name, record in runs.items():
        backbone = record.config["policy"]["backbone"]
        where = f"{backbone['checkpoint']} at {backbone['revision'] or 'main'}"
        commits.setdefault(where, {})[name] = record.facts["checkpoint_commit"]
    rows = [_row(study, f"recorded.commit of {where}", values) for where, values in commits.items()]
    return [{**row, "allowed": False, "reason": None} for row in rows if row["differs"]]


def _inputs(runs: Mapping[str, RunRecord]) -> dict[str, dict[str, Any]]:
    if not runs:
        return {}
    found: dict[str, dict[str, Any]] = {"data": {arm: record.inputs["store"] for arm, record in runs.items()}}
    for package in ("torch", "transformers", "vlm4vla"):
        found[f"version.{package}"] = {arm: record.packages[package] for arm, record in runs.items()}
    found["commit"] = {arm: record.commit for arm, record in runs.items()}
    found["cpu"] = {arm: record.hardware["cpu"] for arm, record in runs.items()}
    return found
