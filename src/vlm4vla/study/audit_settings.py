"""The audit before anything runs: every setting of every arm, what follows from settings together, what is declared."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlm4vla import config as configs
from vlm4vla import registry
from vlm4vla.schemas import ArmConfig, StudyConfig, StudyTrain
from vlm4vla.study import cells
from vlm4vla.study.audit_line import Kind, Line

# Of a study, what is no setting of a run: words, and what stands in the arms' own settings.
_NO_SETTINGS = {"name", "title", "caveat", "factor", "may_differ", "waived", "train", "arms", "references", "pretext"}
_NO_SETTINGS |= {"seeds", "equivalence", "variances"}
NOT_STATED = "not stated"
NATIVE = (
    "tokenizer",
    "prompt",
    "image_tokens",
    "tokens_per_sample",
    "encoder_resolution",
    "query_position",
    "query_at",
    "attention_mask",
    "attention_kernel",
    "dropout",
    "parameters",
    "trainable",
    "flops_per_sample",
)
"""Facts of a VLM that may differ between VLMs and are always shown."""
_PAPERS = "vision-as-in-paper"


def lines(study: StudyConfig) -> Iterator[Line]:
    """Settings first, then what follows from several of them, then what others reported, then what is declared."""
    recipes = {arm: cells.recipe(study, arm) for arm in study.arms}
    shared = {k: v for k, v in configs.to_dict(study).items() if k not in _NO_SETTINGS}
    flat = {arm: configs.flatten(configs.to_dict(recipe) | shared) for arm, recipe in recipes.items()}
    reported = {arm: settings.reported for arm, settings in study.arms.items()}
    for key in _keys(flat):
        yield _line(study, key, {arm: reported[arm].get(key, values.get(key)) for arm, values in flat.items()})
    for key, follows, values in _effective(recipes):
        yield _line(study, key, values, follows=follows)
    beside = frozen_with_vision(recipes)
    if beside:
        yield _line(study, "effective.frozen_with_vision", beside, factor_counts=False)
    for key in _keys(reported):
        if not any(key in values for values in flat.values()):
            kind: Kind = "may-differ" if key in NATIVE else "must-equal"
            yield _line(study, key, {arm: values.get(key, NOT_STATED) for arm, values in reported.items()}, kind)
    declared = {arm: _declared(settings, recipes[arm]) for arm, settings in study.arms.items()}
    for key in _keys(declared):
        yield _line(study, key, {arm: values[key] for arm, values in declared.items()}, "declared")


def frozen_groups(recipe: StudyTrain) -> list[str]:
    """The parameter groups that ``freeze`` means, by the one definition of groups that all families share."""
    found = {str(group) for group in recipe.freeze if group != _PAPERS}
    if _PAPERS in recipe.freeze:  # what the paper's code froze is the family's affair: read from its file
        found |= set(registry.find("backbones", recipe.policy.backbone.family).Family().vision_in_paper)
    return sorted(found)


def frozen_with_vision(recipes: Mapping[str, StudyTrain]) -> dict[str, list[str]]:
    """Arm -> what it freezes of the way from picture to language model, for the arms that freeze vision alone.

    The reference counted the projector as vision for some VLMs and not for others, so "frozen vision" meant two things
    in one table. An arm that freezes the language model as well freezes no "vision", and is left out.
    """
    frozen = {arm: frozen_groups(recipe) for arm, recipe in recipes.items()}
    return {
        arm: [group for group in groups if group in ("vision", "connector")]
        for arm, groups in frozen.items()
        if "vision" in groups and "language" not in groups
    }


def _effective(recipes: Mapping[str, StudyTrain]) -> Iterator[tuple[str, tuple[str, ...], dict[str, Any]]]:
    """What several settings come to together: key, the settings it follows from, arm -> value."""
    sizes = ("policy.backbone.view_size", "policy.backbone.image_size")
    yield "effective.samples_seen", ("steps", "batch"), {a: r.steps * r.batch for a, r in recipes.items()}
    shifts = {a: round(r.augment.shift / r.policy.backbone.view, 4) for a, r in recipes.items()}
    yield "effective.shift_of_side", ("augment.shift", *sizes), shifts
    yield "effective.evaluation_crop", ("augment.crop",), {a: r.augment.crop for a, r in recipes.items()}
    yield "effective.frozen_groups", ("freeze",), {a: frozen_groups(r) for a, r in recipes.items()}


def _declared(settings: ArmConfig, recipe: StudyTrain) -> dict[str, Any]:
    said = settings.declared
    if recipe.policy.backbone.init == "scratch":
        nothing = "none: random weights"
        names = ("pretraining data", "release date", "exposure to robots", "exposure to these simulators")
        return dict.fromkeys(names, nothing)
    return {
        "pretraining data": said.pretraining or "as published with the checkpoint",
        "release date": said.released or "unknown",
        "exposure to robots": said.robots,
        "exposure to these simulators": said.simulators,
    }


def _line(
    study: StudyConfig,
    key: str,
    values: Mapping[str, Any],
    kind: Kind = "must-equal",
    follows: tuple[str, ...] = (),
    factor_counts: bool = True,
) -> Line:
    """A line of arms becomes one of rows: every training run of an arm has the arm's settings."""
    rows = {
        cells.row_name(study, arm, seed): values[arm] for arm in study.arms if arm in values for seed in study.seeds
    }
    # Two VLMs are named by whoever reported on them: each arm is its own.
    groups = {name: name for name in rows} if kind == "may-differ" else None
    return Line(key, rows, kind, follows, groups=groups, factor_counts=factor_counts)


def _keys(values: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for flat in values.values() for key in flat))
