"""Do the arms differ in nothing but the named factor? Asked of the settings, and of what the runs recorded.

Three classes. *must-equal*: a difference is a fault unless the study's ``may_differ`` names the setting (then it is the
factor) or ``waived`` gives a reason. *may-differ*: native to a VLM, always shown (prompt, tokens, resolution of the
encoder); two arms with one VLM may not differ in it either. *declared*: cannot be equalised.

A run that did something else than its settings say is a fault whatever the factor is, even where all arms agree.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm4vla.records import RunRecord
from vlm4vla.schemas import StudyConfig
from vlm4vla.study import audit_records, audit_resolution, audit_settings, cells, tuning
from vlm4vla.study.audit_line import Line
from vlm4vla.types import refuse

NATIVE = "native to the model"
DECLARED = "cannot be equalised"
WAIVED = "waived: "


def audit(
    study: StudyConfig, trained: Mapping[str, RunRecord], evaluated: Mapping[str, RunRecord] | None = None
) -> dict[str, Any]:
    """Rows of the audit table, ``ok``, and the settings at fault.

    ``trained`` and ``evaluated``: row name -> record of its training and of its evaluation; both may be empty before
    anything has run. Refuses a waiver that no line of the audit has any use for.
    """
    lines = [*audit_settings.lines(study), *audit_resolution.lines(study, trained)]
    lines += audit_records.lines(study, trained, evaluated or {})
    _check_waivers(study, lines)
    rows = [_row(study, line) for line in lines]
    faults = [row["setting"] for row in rows if row["differs"] and not row["allowed"]]
    return {"factor": study.factor, "rows": rows, "ok": not faults, "faults": faults}


def of_folder(study: StudyConfig, out: Path) -> dict[str, Any]:
    """The audit with the records of all finished runs of the study's folder."""
    trained: dict[str, RunRecord] = {}
    evaluated: dict[str, RunRecord] = {}
    for cell in cells.cells(study, out, tuning.factors(study, out)):
        for found, folder in ((trained, cell.train.out), (evaluated, cell.eval.out)):
            record = audit_records.finished(folder)
            if record is not None:
                found[cell.eval.arm] = record
    return audit(study, trained, evaluated)


def sentences(found: Mapping[str, Any]) -> list[str]:
    """For people: class by class, faults first, every value where arms differ."""
    out = [f"The factor: {found['factor']}"]
    for kind, title in (
        ("must-equal", "Must be equal"),
        ("may-differ", "May differ: native to the model"),
        ("declared", "Declared: cannot be equalised"),
    ):
        rows = sorted((r for r in found["rows"] if r["class"] == kind), key=_severity)
        if rows:
            out += ["", f"{title} ({len(rows)})", *(f"  {_told(row)}" for row in rows)]
    verdict = f"failed: {', '.join(found['faults'])}" if found["faults"] else "passed"
    return [*out, "", f"The audit {verdict}."]


def _severity(row: Mapping[str, Any]) -> int:
    return 2 if not row["differs"] else 1 if row["allowed"] else 0


def _told(row: Mapping[str, Any]) -> str:
    if not row["differs"]:
        return f"{row['setting']}: {next(iter(row['values'].values()))}"
    groups: dict[str, list[str]] = {}
    for name, value in row["values"].items():
        groups.setdefault(str(value), []).append(name)
    values = "; ".join(f"{value} ({', '.join(names)})" for value, names in groups.items())
    mark = "differs, allowed" if row["allowed"] else "DIFFERS"
    return f"{row['setting']}: {values}  {mark}" + (f": {row['reason']}" if row["reason"] else "")


def _row(study: StudyConfig, line: Line) -> dict[str, Any]:
    differs = line.differs or bool(line.broken)
    allowed, reason = _verdict(study, line)
    return {
        "setting": line.setting,
        "class": line.kind,
        "values": dict(line.values),
        "differs": differs,
        "allowed": allowed,
        "reason": reason,
    }


def _verdict(study: StudyConfig, line: Line) -> tuple[bool, str | None]:
    """Whether a difference is allowed, and why; the reason is printed whether or not there is a difference."""
    if line.kind == "declared":
        return True, DECLARED
    if line.broken:  # only a reason for this very line excuses it: no factor makes a run do what it was not told
        waiver = _waiver(study, (line.setting,))
        told = "; ".join(f"{name}: {text}" for name, text in line.broken.items())
        return (True, f"{WAIVED}{waiver} ({told})") if waiver else (False, told)
    if line.kind == "may-differ" and not line.differs_within:
        return True, NATIVE
    if not line.differs_within:
        return line.kind != "must-equal" or _named(study, line), None
    if line.excuse:
        return True, line.excuse
    caused = not line.differs_without_cause
    if caused and _named(study, line):
        return True, study.factor
    waiver = _waiver(study, (line.setting, *(line.follows if caused else ())))
    if waiver:
        return True, WAIVED + waiver
    return False, line.note


def _named(study: StudyConfig, line: Line) -> bool:
    return line.factor_counts and any(
        key == name or key.startswith(f"{name}.") or (key in line.follows and name.startswith(f"{key}."))
        for key in (line.setting, *line.follows)
        for name in study.may_differ
    )


def _waiver(study: StudyConfig, keys: Sequence[str]) -> str | None:
    found = [reason for key in keys for name, reason in study.waived.items() if _covers(name, key)]
    return found[0] if found else None


def _covers(name: str, key: str) -> bool:
    return key == name or key.startswith(f"{name}.")


def _check_waivers(study: StudyConfig, lines: Sequence[Line]) -> None:
    known = {line.setting: None for line in lines} | dict.fromkeys(audit_records.names())
    for name in study.waived:
        if not any(_covers(name, key) for key in known) and not name.startswith(audit_records.OPEN):
            raise refuse(
                f"waived names {name!r}, which is no line of the audit",
                given=name,
                possible=sorted(known),
                todo="Spell it as listed, or take it out.",
            )
