"""What every table and figure for print is made from: the study's records, recipe by recipe, and words for captions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vlm4vla.records import Estimate, Measure, read_one
from vlm4vla.report.folder import Arm, Study, TableRow, Training
from vlm4vla.report.paper.record import FILE, Appendix
from vlm4vla.report.sentences import ESTIMANDS
from vlm4vla.types import refuse

COLUMN, TEXT = 3.3, 6.9
"""Inches: one column, and the whole width of a two-column page."""
MANY = 7
"""Arms that colours and markers tell apart in one panel; more get a panel each."""

OLDER = (
    "the study's records are older than this figure; without finished.json `study run` makes them anew from its rows"
)
Plain = tuple[Mapping[str, object], ...]


@dataclass(frozen=True)
class Plot:
    """A figure for print. ``draw`` is called inside the style; ``plain``: its numbers, one a line."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]
    plain: Plain


@dataclass(frozen=True)
class Missing:
    """What this study does not show, and why."""

    name: str
    title: str
    why: str


@dataclass(frozen=True)
class Recipe:
    """An arm with its training runs. ``mean``: E3, or the E2 of its one checkpoint; null where none was recorded."""

    name: str
    label: str
    arms: tuple[Arm, ...]
    rows: tuple[TableRow, ...]
    training: tuple[Training, ...]
    mean: Estimate | None

    @property
    def config(self) -> dict[str, Any] | None:
        """Settings of its first training run; null where nothing was trained."""
        run = self.training[0].run
        return None if run is None else run.config

    def facts(self, name: str) -> list[Any]:
        """What its training runs recorded under ``name``, each value once."""
        found = [t.run.facts[name] for t in self.training if t.run is not None and name in t.run.facts]
        return [value for i, value in enumerate(found) if value not in found[:i]]


@dataclass(frozen=True)
class Unit:
    """How numbers are told: times ``factor``, on an axis from 0 to ``top``; differences in ``name``."""

    factor: float
    top: float
    axis: str
    caption: str
    difference: str
    name: str
    measure: Measure = "success"


PERCENT = Unit(100.0, 100.0, "success (%)", "Success in percent", "success (points)", "points")


@dataclass(frozen=True)
class Source:
    study: Study
    appendix: Appendix | None

    @cached_property
    def unit(self) -> Unit:
        if self.study.measure == "success":
            return PERCENT
        longest = max(e.longest or 1 for row in self.study.table for e in row.estimates.values())
        words = "subtasks in a row"
        return Unit(
            1.0,
            float(longest),
            f"{words}, average",
            f"Average number of {words}, of {longest}",
            words,
            "subtasks",
            "completed",
        )

    @cached_property
    def recipes(self) -> tuple[Recipe, ...]:
        """In the study's order."""
        study, of = self.study, {e.arm: e for e in self.study.recipes}
        plain = {row.arm: row for row in study.table if row.kind == "arm"}
        trained = {t.arm.name: t for t in study.training}
        out = []
        for name in dict.fromkeys(arm.recipe or arm.name for arm in study.file.arms):
            arms = tuple(arm for arm in study.file.arms if (arm.recipe or arm.name) == name)
            rows = tuple(plain[arm.name] for arm in arms)
            single = rows[0].estimates.get(None) if len(rows) == 1 else None
            label = (arms[0].recipe_label if arms[0].recipe else None) or arms[0].label
            out.append(Recipe(name, label, arms, rows, tuple(trained[arm.name] for arm in arms), of.get(name, single)))
        return tuple(out)

    @property
    def best_first(self) -> list[Recipe]:
        return sorted(self.recipes, key=lambda recipe: -(recipe.mean.rate if recipe.mean else -1.0))

    def label(self, recipe: str) -> str:
        return next((r.label for r in self.recipes if r.name == recipe), recipe)

    @property
    def seeds(self) -> int:
        return len(self.recipes[0].arms)

    @property
    def n(self) -> str:
        """``n = 240 episodes per arm: 3 training runs x 4 tasks x 20 starts``."""
        first = self.recipes[0]
        runs, tasks = len(first.rows), len(self.study.file.tasks)
        total = sum(len(row.rows) for row in first.rows)
        starts = total / (runs * tasks)
        per_task = f"{starts:g} starts" if starts == int(starts) else "unequal numbers of starts"
        return f"n = {total:,} episodes per arm: {count(runs, 'training run')}, {count(tasks, 'task')}, {per_task}"

    def standing(self, estimates: Iterable[Estimate | None]) -> str:
        """Level, method and estimand of these, in sentences."""
        found = [e for e in estimates if e is not None]
        return standing((e.level, e.method, e.estimand) for e in found)


def standing(entries: Iterable[tuple[float, str, str]]) -> str:
    """From (level, method, estimand): each combination once."""
    told: dict[str, None] = {}
    for level, method, estimand in entries:
        told[f"{100 * level:g}% intervals: {method} (estimand {estimand}: {ESTIMANDS[estimand]})."] = None
    return " ".join(told)


def cautions(found: Iterable[Estimate | None]) -> str:
    """What is to be held against these, each reason once, as sentences."""
    parts = [part for e in found if e is not None and e.caution for part in e.caution.split("; ")]
    return " ".join(f"Caution: {part}." for part in dict.fromkeys(parts))


def count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def read(study: Study, where: Path) -> Source:
    """``where``: the study's folder. Refuses an appendix that the rows do not bear out."""
    made = read_one(where / FILE, Appendix) if (where / FILE).is_file() else None
    source = Source(study, made)
    if made is not None:
        _check(source, made, where / FILE)
    return source


def _check(source: Source, made: Appendix, file: Path) -> None:
    rates: dict[tuple[str, str | None], list[int]] = {}
    lengths: dict[tuple[str, str | None], list[int]] = {}
    for recipe in source.recipes:
        for table_row in recipe.rows:
            for row in table_row.rows:
                entry = rates.setdefault((recipe.name, row.task), [0, 0])
                entry[0] += 1
                entry[1] += row.success
                if row.completed is not None:
                    lengths.setdefault((recipe.name, row.task), []).append(row.completed)
    for e in made.tasks:
        if rates.get((e.arm, e.task)) != [e.episodes, e.successes]:
            raise _contradiction(file, f"{e.arm!r} on {e.task!r}")
    for c in made.chains:
        solved = lengths.get((c.arm, c.task), [])
        if [len(solved), sum(length >= (c.in_a_row or 0) for length in solved)] != [c.episodes, c.successes]:
            raise _contradiction(file, f"the chains of {c.arm!r}")


def _contradiction(file: Path, what: str) -> Exception:
    return refuse(
        f"{file} and the rows do not agree about {what}",
        possible="an appendix made from these rows",
        todo="Make it again with `vlm4vla study run`; it keeps finished episodes.",
    )


def numbers(estimate: Estimate) -> dict[str, object]:
    """An estimate as columns of a CSV file."""
    return estimate.model_dump(mode="json", exclude={"arm", "control", "benchmark", "task"})


def merged(values: Sequence[Any], told: Callable[[Any], str]) -> str:
    """What training runs of an arm have in common; different values one after the other."""
    return " / ".join(told(value) for value in values) if values else "–"
