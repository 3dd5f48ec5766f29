"""What was chosen before the evaluation, and among what: checkpoints, executed horizons, learning rates, as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlm4vla.report.folder import Study, TableRow, Tuning

NOTHING = "Checkpoint and executed horizon were declared before the study; none was chosen by its success."
NOT_MEASURED = (
    "Sensitivity to the learning rate: not measured. Every arm was trained with the rate of its recipe alone."
)


@dataclass(frozen=True)
class ScoreLine:
    """One policy, or the mean over an arm's training runs: a score per candidate; ``chosen``: its place, null: none."""

    label: str
    scores: list[str]
    chosen: int | None


@dataclass(frozen=True)
class Choices:
    """``warnings`` belong beside the answer too; ``heads`` name the candidates or rates of the lines below them."""

    sentences: list[str]
    warnings: list[str]
    heads: list[str]
    lines: list[ScoreLine]
    rate_sentences: list[str]
    rate_heads: list[str]
    rate_lines: list[ScoreLine]


def choices(study: Study) -> Choices:
    arms = [row for row in study.table if row.kind == "arm"]
    chosen = [(row, found) for row in arms if (found := _selection(row)) is not None]
    sentences, warnings = _told(chosen)
    warnings += [text for row in arms if (text := _repeated(row))]
    rate_sentences, rate_heads, rate_lines = _rates(study)
    return Choices(
        sentences=sentences,
        warnings=warnings,
        heads=_heads(chosen),
        lines=_lines(study, chosen),
        rate_sentences=rate_sentences,
        rate_heads=rate_heads,
        rate_lines=rate_lines,
    )


def _selection(row: TableRow) -> dict[str, Any] | None:
    """The fact of the evaluation's record; records of evaluations without a study have none."""
    facts: dict[str, Any] = {"selection": None} | row.run.facts
    found: dict[str, Any] | None = facts["selection"]
    return found


def _told(chosen: Sequence[tuple[TableRow, dict[str, Any]]]) -> tuple[list[str], list[str]]:
    if not chosen:
        return [NOTHING], []
    first = chosen[0][1]
    tried = f"{len(first['candidates'])} candidates (checkpoint and executed horizon)"
    how = f"{tried} per policy, tried on {first['episodes']} {first['on']} episodes per task; the best was fixed"
    if first["on"] == "dev":
        return [f"{how} and evaluated once, on other starts."], []
    warning = (
        f"Selection on the test set: {how} by its success on the very starts that are reported. The rates are "
        "optimistic, the more so the more candidates there were, and no interval here accounts for it."
    )
    return [], [warning]


def _repeated(row: TableRow) -> str:
    """Said where a training run saw the eval starts more often than its rule asks for."""
    if "evaluation" not in row.run.facts:
        return ""
    found, number = _selection(row), row.run.facts["evaluation"]
    planned = 1 + (len(found["candidates"]) if found is not None and found["on"] == "eval" else 0)
    if number <= planned:
        return ""
    return f"{row.label} was evaluated on eval starts {number} times, of which this is the last."


def _heads(chosen: Sequence[tuple[TableRow, dict[str, Any]]]) -> list[str]:
    """Candidates by name; arms of different lengths have no common last step."""
    if not chosen:
        return []
    steps = [[c["step"] for c in found["candidates"]] for _, found in chosen]
    named = [f"{c['step']} steps" if all(s == steps[0] for s in steps) else "last" for c in chosen[0][1]["candidates"]]
    return [f"{name}, execute {c['execute']}" for name, c in zip(named, chosen[0][1]["candidates"], strict=True)]


def _lines(study: Study, chosen: Sequence[tuple[TableRow, dict[str, Any]]]) -> list[ScoreLine]:
    recipe_of = {arm.name: arm.recipe or arm.name for arm in study.file.arms}
    lines: list[ScoreLine] = []
    for recipe in dict.fromkeys(recipe_of[row.arm] for row, _ in chosen):
        own = [(row, found) for row, found in chosen if recipe_of[row.arm] == recipe]
        table = [[c["score"] for c in found["candidates"]] for _, found in own]
        for (row, found), scores in zip(own, table, strict=True):
            lines.append(ScoreLine(row.label, [f"{s:.3f}" for s in scores], found["candidates"].index(found["chosen"])))
        if len(own) > 1:
            means = [f"{sum(column) / len(column):.3f}" for column in zip(*table, strict=True)]
            lines.append(ScoreLine(f"{study.labels[recipe]}, mean of {len(own)}", means, None))
    return lines


def _rates(study: Study) -> tuple[list[str], list[str], list[ScoreLine]]:
    tuning = study.file.tuning
    if tuning is None:
        return [NOT_MEASURED], [], []
    sentences = [
        f"Every arm was trained once (seed {tuning.seed}) with each of the same {len(tuning.factors)} multiples of its "
        f"learning rate, and tried on {tuning.episodes} dev episodes per task; the best one trained the seeds reported."
    ]
    lines = []
    for arm in tuning.arms:
        cells = [f"{score:.3f} ({rate:.3g})" for score, rate in zip(arm.scores, arm.rates, strict=True)]
        lines.append(ScoreLine(_label(study, arm.arm), cells, tuning.factors.index(arm.chosen)))
    return sentences + _flips(study, tuning), [f"x {factor:g}" for factor in tuning.factors], lines


def _flips(study: Study, tuning: Tuning) -> list[str]:
    if not tuning.flips:
        return ["No two arms change their order between the rates tried, each with one training run."]
    return [
        f"The order of {_label(study, f.a)} and {_label(study, f.b)} depends on the learning rate: the first leads at "
        f"x {_factors(f.a_leads)}, the second at x {_factors(f.b_leads)}. A ranking at one rate alone is no finding."
        for f in tuning.flips
    ]


def _factors(factors: Sequence[float]) -> str:
    return ", ".join(f"{factor:g}" for factor in factors)


def _label(study: Study, arm: str) -> str:
    return next(a.recipe_label or a.label for a in study.file.arms if (a.recipe or a.name) == arm)
