"""What the templates print beside rates: parameters, provenance, values as text. No markup, and no statistics."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlm4vla.records import ParameterCount, RunRecord
from vlm4vla.report.folder import Study, Training


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


def arms(study: Study) -> str:
    """``2 arms``, or ``2 arms, 3 training runs each``."""
    names = {arm.recipe or arm.name for arm in study.file.arms}
    text = f"{len(names)} arm{'' if len(names) == 1 else 's'}"
    runs = len(study.file.arms) // max(len(names), 1)
    return text if runs == 1 else f"{text}, {runs} training runs each"


def parameters(study: Study) -> list[ParameterLine]:
    """Per arm and group: total = reused + new = frozen + trainable; a sum line closes each arm.

    Training runs of one recipe with the same parameters stand there once, under its name.
    """
    out: list[ParameterLine] = []
    for label, item in _distinct(study):
        assert item.run is not None
        counts = [(p.group, p.total, p.new, p.trainable) for p in item.run.parameters]
        counts.append(("all", sum(c[1] for c in counts), sum(c[2] for c in counts), sum(c[3] for c in counts)))
        out += [
            ParameterLine(label, group, total, total - new, new, total - trained, trained, group == "all")
            for group, total, new, trained in counts
        ]
    return out


def _distinct(study: Study) -> Iterator[tuple[str, Training]]:
    """The training runs with parameters: one per recipe if all of its runs have the same, else every one."""
    of_recipe: dict[str, list[Training]] = {}
    for item in study.training:
        if item.run is not None and item.run.parameters:
            of_recipe.setdefault(item.arm.recipe or item.arm.name, []).append(item)
    for recipe, items in of_recipe.items():
        if len(items) > 1 and all(_counts(item) == _counts(items[0]) for item in items):
            yield study.labels[recipe], items[0]
        else:
            yield from ((item.arm.label, item) for item in items)


def _counts(item: Training) -> list[ParameterCount]:
    return item.run.parameters if item.run is not None else []


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
    commits: str
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
        commits=_commits(runs.values()),
        shared=shared,
        stages=[(stage, duration(s)) for stage, s in seconds.items()],
        total=duration(sum(seconds.values())),
        predicted=duration(study.file.estimate_s),
    )


def _commits(runs: Iterable[RunRecord]) -> str:
    """``54e05f4c1b (400 runs), 54e05f4c1b with uncommitted changes (2 runs)``."""
    names = [
        (run.commit[:10] if run.commit else "not from a checkout") + (" with uncommitted changes" if run.dirty else "")
        for run in runs
    ]
    return ", ".join(f"{name} ({n} run{'' if n == 1 else 's'})" for name, n in Counter(names).items())


def _merged(runs: Iterable[RunRecord], field: str, name: str) -> str:
    users: dict[str, list[str]] = {}
    for run in runs:
        held = getattr(run, field)
        if name in held:
            text = str(held[name]) if field != "hardware" else value(held[name])
            users.setdefault(text, []).append(run.run)
    if len(users) == 1:
        return next(iter(users))
    return "; ".join(f"{text} ({named(names, 4)})" for text, names in users.items())


def named(names: Sequence[str], limit: int) -> str:
    """``a, b and 7 others``."""
    if len(names) <= limit + 1:
        return ", ".join(names)
    return f"{', '.join(names[:limit])} and {len(names) - limit} others"


def markdown(text: object) -> str:
    """Escape for a Markdown table cell or paragraph: no markup, no HTML, one line."""
    one_line = " ".join(str(text).split())
    escaped = re.sub(r"([\\`*_\[\]|~$!#])", r"\\\1", one_line)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
