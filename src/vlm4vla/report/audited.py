"""The audit as lines of a table: one column per arm where they are few, values with their arms where they are many."""

from collections.abc import Sequence
from dataclasses import dataclass

from vlm4vla.report.folder import AuditRow, Study
from vlm4vla.report.view import named, value

COLUMNS = 6
"""More arms than this do not fit side by side: then each value is followed by the arms that have it."""
ORDER = ("fault", "factor", "allowed", "native", "declared")


@dataclass(frozen=True)
class Column:
    """An arm: its label, and its rows (name, label) in the audit, which may name the recipe or its training runs."""

    label: str
    recipe: str
    runs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class AuditLine:
    """One setting: the printed value per column, and the verdict: fault, factor, allowed, native, declared, equal.

    ``holders``: each value that occurs, with who has it ("" where all do).
    """

    setting: str
    values: list[str]
    holders: list[tuple[str, str]]
    verdict: str
    reason: str


def columns(study: Study) -> list[Column]:
    """An arm's training runs share a column."""
    found: dict[str, list[tuple[str, str]]] = {}
    for arm in study.file.arms:
        found.setdefault(arm.recipe or arm.name, []).append((arm.name, arm.label))
    return [
        Column(study.labels[recipe] if len(runs) > 1 or recipe != runs[0][0] else runs[0][1], recipe, tuple(runs))
        for recipe, runs in found.items()
    ]


def audit(study: Study) -> tuple[list[AuditLine], list[AuditLine]]:
    """Settings to look at (faults, what the factor moves, what is native, what is declared), and equal ones."""
    if study.audit is None:
        return [], []
    shown = columns(study)
    lines = [audit_line(row, shown, study.audit.factor) for row in study.audit.rows]
    differing = sorted((line for line in lines if line.verdict != "equal"), key=lambda x: ORDER.index(x.verdict))
    return differing, [line for line in lines if line.verdict == "equal"]


def audit_line(row: AuditRow, shown: Sequence[Column], factor: str) -> AuditLine:
    """A reason that is the study's factor marks what the factor itself changed.

    What is native to a model (``may-differ``) and what is declared are always shown.
    """
    verdict = {"declared": "declared", "may-differ": "native"}.get(row.class_, "equal")
    if row.differs:
        verdict = "fault" if not row.allowed else "factor" if row.reason == factor else "allowed"
    texts = [_values(row, column) for column in shown]
    values = [next(iter(found)) if len(found) == 1 else _told(found, "; ") for found in texts]
    return AuditLine(
        row.setting, values, _holders(shown, texts), verdict, "" if verdict == "factor" else row.reason or ""
    )


def _values(row: AuditRow, column: Column) -> dict[str, list[str]]:
    """Each printed value of an arm, with the labels of its training runs that have it."""
    found: dict[str, list[str]] = {}
    for name, label in column.runs:
        text = next((value(row.values[n]) for n in (name, column.recipe) if n in row.values), "–")
        found.setdefault(text, []).append(label)
    return found


def _told(found: dict[str, list[str]], between: str) -> str:
    return between.join(f"{text} ({named(labels, 3)})" for text, labels in found.items())


def _holders(shown: Sequence[Column], texts: Sequence[dict[str, list[str]]]) -> list[tuple[str, str]]:
    """An arm all of whose runs have a value is named once; who is in the majority is counted, not named."""
    holders: dict[str, list[str]] = {}
    for column, found in zip(shown, texts, strict=True):
        for text, labels in found.items():
            holders.setdefault(text, []).extend([column.label] if len(found) == 1 else labels)
    if len(holders) == 1:
        return [(text, "") for text in holders]
    return [(text, named(labels, 5)) for text, labels in holders.items()]
