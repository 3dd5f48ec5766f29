"""The audit as a table: every setting in which arms differ or that is shown in any case, arm by arm."""

from collections.abc import Sequence
from typing import Any

from vlm4vla.report import view
from vlm4vla.report.folder import AuditRow
from vlm4vla.report.paper.lines import short
from vlm4vla.report.paper.source import Missing, Recipe, Source, count
from vlm4vla.report.tables import Cell, PrintTable, Row

NAME, TITLE = "audit-table", "Audit: what differs between the arms beside the factor"
ARMS = 4
"""More arms than this do not fit as columns: values are listed with the arms that have them."""
LETTERS = 90
"""Of a value in print; the CSV file has it whole."""
GROUPS = (
    ("fault", "Differs without leave"), ("factor", "The factor"), ("waived", "Differs, allowed with a reason"),
    ("native", "Native to the models, always shown"), ("declared", "Cannot be equalised, declared"),
)  # fmt: skip


def make(source: Source) -> PrintTable | Missing:
    audit = source.study.audit
    if audit is None:
        return Missing(NAME, TITLE, "no audit was recorded")
    columns = len(source.recipes) <= ARMS
    shown = {key: [row for row in audit.rows if _group(row, audit.factor) == key] for key, _ in GROUPS}
    rows = []
    for key, title in GROUPS:
        for row in shown[key]:
            cells = _cells(row, source.recipes) if columns else (Cell(_listed(row, source.recipes)),)
            reason = row.reason if key in ("waived", "fault") and row.reason else ""
            rows.append(Row(title, row.setting, (*cells, Cell(short(reason, LETTERS)))))
    equal = [row.setting for row in audit.rows if _group(row, audit.factor) == "equal"]
    heads = [short(r.label, 30) for r in source.recipes] if columns else ["Values (arms)"]
    width = 0.72 / (len(heads) + 1)
    return PrintTable(
        name=NAME,
        title=TITLE,
        caption=_caption(source, audit.ok, audit.factor, equal),
        columns=(*heads, "Reason"),
        rows=tuple(rows),
        plain=tuple(
            {
                "setting": row.setting, "class": row.class_, "verdict": _group(row, audit.factor), "arm": recipe.name,
                "run": arm.name, "value": view.value(row.values[arm.name]), "reason": row.reason,
            }
            for row in audit.rows for recipe in source.recipes for arm in recipe.arms if arm.name in row.values
        ),
        wide=(0.2, *[width] * len(heads), width) if columns else (0.2, 0.5, 0.22),
    )  # fmt: skip


def _caption(source: Source, ok: bool, factor: str, equal: Sequence[str]) -> str:
    verdict = "passed: the arms differ in nothing else that is not allowed" if ok else (
        "failed: arms differ in settings that are neither declared nor allowed, so no difference in success is the "
        "effect of the factor"
    )  # fmt: skip
    return (
        f"The factor: {factor}. The audit {verdict}. Compared are resolved settings and what every run recorded, over "
        f"{count(len(source.study.file.arms), 'training run')} of {count(len(source.recipes), 'arm')}; values of an "
        f"arm's runs that differ are told one after the other. Equal in all: {count(len(equal), 'setting')}, listed in "
        "the CSV file. A table of settings has no estimand."
    )


def _group(row: AuditRow, factor: str) -> str:
    if row.class_ == "declared":
        return "declared"
    if row.class_ == "may-differ":
        return "fault" if row.differs and not row.allowed else "native"
    if not row.differs:
        return "equal"
    return "fault" if not row.allowed else "factor" if row.reason == factor else "waived"


def _values(row: AuditRow, recipe: Recipe) -> list[Any]:
    """Each value of the arm's training runs once."""
    found = [row.values[arm.name] for arm in recipe.arms if arm.name in row.values]
    return [value for i, value in enumerate(found) if value not in found[:i]]


def _told(row: AuditRow, recipe: Recipe) -> str:
    return short(" / ".join(view.value(value) for value in _values(row, recipe)) or "–", LETTERS)


def _cells(row: AuditRow, recipes: Sequence[Recipe]) -> tuple[Cell, ...]:
    return tuple(Cell(_told(row, recipe)) for recipe in recipes)


def _listed(row: AuditRow, recipes: Sequence[Recipe]) -> str:
    """``2e-05 (18 arms); 5e-05 (Kosmos-2, PaliGemma)``."""
    groups: dict[str, list[str]] = {}
    for recipe in recipes:
        groups.setdefault(_told(row, recipe), []).append(recipe.label)
    if len(groups) == 1:
        return next(iter(groups))
    most = max(groups.values(), key=len)
    return "; ".join(
        f"{value} ({f'{len(names)} arms' if names is most and len(names) > 2 else ', '.join(names)})"
        for value, names in groups.items()
    )
