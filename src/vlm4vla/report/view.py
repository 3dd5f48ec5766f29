"""What the templates print: records turned into rows of text. No markup here, and no statistics."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlm4vla.records import Comparison, EpisodeRow, Estimate, RunRecord
from vlm4vla.report import sentences
from vlm4vla.report.folder import Arm, AuditRow, Study, TableRow, Training


@dataclass(frozen=True)
class Cell:
    """A rate: ``rate``, ``low`` and ``high`` in percent as text; ``anchor`` is the id of its episodes."""

    rate: str
    low: str
    high: str
    successes: int
    episodes: int
    anchor: str
    method: str


@dataclass(frozen=True)
class Line:
    """One line of the main table."""

    kind: str
    label: str
    cells: list[Cell | None]
    mean: Cell | None
    estimand: str
    anchor: str


@dataclass(frozen=True)
class RecipeLine:
    """An arm as a recipe. ``letters``: it cannot be told apart from recipes that share one."""

    label: str
    mean: Cell | None
    seeds: int
    letters: str
    caution: str
    estimand: str


@dataclass(frozen=True)
class Episodes:
    """The rows behind a line of the table, by task."""

    label: str
    anchor: str
    run: str
    source: str
    tasks: list[tuple[str, str, list[EpisodeRow]]]  # task, anchor, rows


@dataclass(frozen=True)
class ParameterLine:
    """Parameters of one group, as text with thousands separated; ``trained`` null where nothing was trained."""

    arm: str
    group: str
    total: int
    reused: int
    new: int
    frozen: int
    trainable: int
    is_sum: bool


@dataclass(frozen=True)
class AuditLine:
    """One setting: the printed value per arm, and the verdict: fault, factor, allowed, native, declared, equal."""

    setting: str
    values: list[str]
    verdict: str
    reason: str


GROUPS = (("reference", "References"), ("arm", "Arms"), ("control", "Controls (evaluation only)"))


def table(study: Study) -> list[tuple[str, list[Line]]]:
    """The main table in its groups: references, arms, controls."""
    out: list[tuple[str, list[Line]]] = []
    for kind, title in GROUPS:
        lines = [_line(study, i, row) for i, row in enumerate(study.table) if row.kind == kind]
        if lines:
            out.append((title, lines))
    return out


def _line(study: Study, index: int, row: TableRow) -> Line:
    cells = [_cell(row.estimates.get(t), f"rows-{index}-{k}") for k, t in enumerate(study.file.tasks)]
    mean = row.estimates.get(None)
    estimand = mean.estimand if mean is not None else ""
    return Line(row.kind, row.label, cells, _cell(mean, f"rows-{index}"), estimand, f"rows-{index}")


def _cell(estimate: Estimate | None, anchor: str) -> Cell | None:
    if estimate is None:
        return None
    return Cell(
        sentences.percent(estimate.rate),
        sentences.percent(estimate.low),
        sentences.percent(estimate.high),
        estimate.successes,
        estimate.episodes,
        anchor,
        estimate.method,
    )


def arms(study: Study) -> str:
    """``2 arms``, or ``2 arms, 3 training runs each``."""
    names = {arm.recipe or arm.name for arm in study.file.arms}
    text = f"{len(names)} arm{'' if len(names) == 1 else 's'}"
    runs = len(study.file.arms) // max(len(names), 1)
    return text if runs == 1 else f"{text}, {runs} training runs each"


def recipes(study: Study) -> list[RecipeLine]:
    """The arms as recipes, best first."""
    found = sorted(study.recipes, key=lambda e: -e.rate)
    first = {arm.recipe: f"rows-{i}" for i, arm in reversed(list(_places(study)))}
    return [
        RecipeLine(
            study.labels.get(e.arm, e.arm),
            _cell(e, first[e.arm]),
            e.seeds or 0,
            e.letters or "",
            e.caution or "",
            e.estimand,
        )
        for e in found
    ]


def _places(study: Study) -> Iterator[tuple[int, Arm]]:
    """Index in the table, and entry, of every checkpoint without a control."""
    entries = {arm.name: arm for arm in study.file.arms}
    return ((i, entries[row.arm]) for i, row in enumerate(study.table) if row.kind == "arm")


def episodes(study: Study) -> list[Episodes]:
    """Every row of the study, grouped as the main table's lines and cells are."""
    out: list[Episodes] = []
    folders = {e.name: e.eval for e in study.file.references} | {e.name: e.eval for e in study.file.arms}
    for i, row in enumerate(study.table):
        names = [*study.file.tasks, *sorted({r.task for r in row.rows} - set(study.file.tasks))]
        tasks = [
            (task, f"rows-{i}-{k}", sorted((r for r in row.rows if r.task == task), key=lambda r: r.episode))
            for k, task in enumerate(names)
        ]
        tasks = [entry for entry in tasks if entry[2]]
        out.append(Episodes(row.label, f"rows-{i}", row.run.run, f"{folders[row.arm]}/rows.jsonl", tasks))
    return out


@dataclass(frozen=True)
class Answer:
    """The answer in plain sentences: the verdicts first, then what they stand on."""

    verdicts: list[str]
    scope: list[str]
    rates: list[str]
    scale: list[str]
    controls: list[str]


def answer(study: Study) -> Answer:
    """Sentences on arms, their differences, floor and ceiling, and controls, from the recorded numbers."""
    controls = {row.name for row in study.table if row.kind == "control"}
    labels = study.labels
    references = {row.name for row in study.table if row.kind == "reference"}
    of_arms = [c for c in study.comparisons if not {c.a, c.b} & (controls | references)]
    of_references = [c for c in study.comparisons if {c.a, c.b} & references]
    of_controls = [c for c in study.comparisons if {c.a, c.b} & controls]

    def verdict(c: Comparison) -> str:
        return sentences.difference_sentence(c, labels.get(c.a, c.a), labels.get(c.b, c.b))

    def rates(kind: str) -> list[str]:
        rows = [r for r in study.table if r.kind == kind and None in r.estimates]
        return [sentences.rate_sentence(r.label, r.estimates[None]) for r in rows]

    retrained = [sentences.rate_sentence(labels.get(e.arm, e.arm), e) for e in study.recipes]

    return Answer(
        verdicts=[verdict(c) for c in of_arms],
        scope=list(dict.fromkeys(sentences.scope_sentence(c) for c in study.comparisons)),
        rates=retrained or rates("arm"),
        scale=rates("reference") + [verdict(c) for c in of_references],
        controls=[verdict(c) for c in of_controls] or rates("control"),
    )


def parameters(training: Sequence[Training]) -> list[ParameterLine]:
    """Per arm and group: total = reused + new = frozen + trainable; a sum line closes each arm."""
    out: list[ParameterLine] = []
    for item in training:
        if item.run is None or not item.run.parameters:
            continue
        counts = [(p.group, p.total, p.new, p.trainable) for p in item.run.parameters]
        counts.append(("all", sum(c[1] for c in counts), sum(c[2] for c in counts), sum(c[3] for c in counts)))
        out += [
            ParameterLine(item.arm.label, group, total, total - new, new, total - trained, trained, group == "all")
            for group, total, new, trained in counts
        ]
    return out


def audit(study: Study) -> tuple[list[AuditLine], list[AuditLine]]:
    """Settings to look at (faults, what the factor moves, what is native, what is declared), and equal ones."""
    if study.audit is None:
        return [], []
    names = [arm.name for arm in study.file.arms]
    lines = [_audit_line(row, names, study.audit.factor) for row in study.audit.rows]
    order = ("fault", "factor", "allowed", "native", "declared")
    shown = sorted((line for line in lines if line.verdict != "equal"), key=lambda x: order.index(x.verdict))
    return shown, [line for line in lines if line.verdict == "equal"]


def _audit_line(row: AuditRow, names: Sequence[str], factor: str) -> AuditLine:
    """A reason that is the study's factor marks what the factor itself changed.

    What is native to a model (``may-differ``) and what is declared are always shown.
    """
    verdict = {"declared": "declared", "may-differ": "native"}.get(row.class_, "equal")
    if row.differs:
        verdict = "fault" if not row.allowed else "factor" if row.reason == factor else "allowed"
    values = [value(row.values[name]) if name in row.values else "–" for name in names]
    return AuditLine(row.setting, values, verdict, "" if verdict == "factor" else row.reason or "")


def value(x: Any) -> str:
    """A recorded value as people write it: thousands apart, lists in commas, null as a dash."""
    if x is None:
        return "–"
    if isinstance(x, bool):
        return "yes" if x else "no"
    if isinstance(x, int):
        return f"{x:,}".replace(",", "\u202f")
    if isinstance(x, float):
        return f"{x:g}"
    if isinstance(x, Mapping):
        return ", ".join(f"{k} {value(v)}" for k, v in x.items())
    if isinstance(x, Sequence) and not isinstance(x, str):
        if not x:
            return "none"
        return ", ".join(value(v) for v in x)
    return str(x)


def duration(seconds: float | None) -> str:
    """``4210`` -> ``1 h 10 min``; below a minute in seconds."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def moment(iso: str) -> str:
    """``2026-11-20T05:20:00Z`` -> ``2026-11-20 05:20 UTC``; another notation is printed as it is."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::\d\d(?:\.\d+)?)?(?:Z|\+00:00)", iso)
    return f"{found[1]} {found[2]} UTC" if found else iso


@dataclass(frozen=True)
class Provenance:
    """Runs, and the facts they share: ``shared`` holds (subject, name, value); a value that varies names its runs."""

    runs: list[RunRecord]
    shared: list[tuple[str, str, str]]
    stages: list[tuple[str, str]]
    total: str
    predicted: str


def provenance(study: Study) -> Provenance:
    """Where every number comes from: commits, versions, hardware, seeds, times."""
    runs: dict[str, RunRecord] = {}
    for run in [t.run for t in study.training if t.run is not None] + [row.run for row in study.table]:
        runs[f"{run.kind} {run.run}"] = run
    shared: list[tuple[str, str, str]] = []
    for subject, field in (("package", "packages"), ("simulator", "versions"), ("hardware", "hardware")):
        names = dict.fromkeys(name for run in runs.values() for name in getattr(run, field))
        shared += [(subject, name, _merged(runs.values(), field, name)) for name in names]
    seconds = study.file.wall_s
    return Provenance(
        runs=list(runs.values()),
        shared=shared,
        stages=[(stage, duration(s)) for stage, s in seconds.items()],
        total=duration(sum(seconds.values())),
        predicted=duration(study.file.estimate_s),
    )


def _merged(runs: Any, field: str, name: str) -> str:
    users: dict[str, list[str]] = {}
    for run in runs:
        held = getattr(run, field)
        if name in held:
            text = str(held[name]) if field != "hardware" else value(held[name])
            users.setdefault(text, []).append(run.run)
    if len(users) == 1:
        return next(iter(users))
    return "; ".join(f"{text} ({', '.join(names)})" for text, names in users.items())


def markdown(text: object) -> str:
    """Escape for a Markdown table cell or paragraph: no markup, no HTML, one line."""
    one_line = " ".join(str(text).split())
    escaped = re.sub(r"([\\`*_\[\]|~$!#])", r"\\\1", one_line)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
