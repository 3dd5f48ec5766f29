"""Score files and success files for ``study correlate``: CSV, JSON or YAML rows, read strictly and joined by VLM.

A score row is one number of one VLM on one task under one metric, as evaluation harnesses write it: their value is
``score``, their stderr ``standard_error``, their task version or prompt hash ``prompt``. Two prompts of one task, or
two evaluators, are two different tests, so they are never mixed within one correlation. ``score_file.py`` writes them.
"""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import Field, model_validator
from scipy import stats

from vlm4vla.config import Config, validate
from vlm4vla.records import Estimate, read_all
from vlm4vla.report.correlation import Correlation, Point
from vlm4vla.study.correlate import correlate, with_holm
from vlm4vla.types import refuse

Finite = Annotated[float, Field(allow_inf_nan=False)]
Error = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]


class ScoreRow(Config):
    """``n``: questions behind the score. ``prompt``: id or version of the prompt, null where there is only one.

    ``low``, ``high``: a 95 % interval of the score. ``evaluator``: what asked and graded, with its version.
    """

    vlm: Name
    family: Name
    task: Name
    metric: Name
    score: Finite
    standard_error: Error | None = None
    low: Finite | None = None
    high: Finite | None = None
    prompt: str | None = None
    n: Annotated[int, Field(gt=0)] | None = None
    evaluator: str | None = None


class SuccessRow(Config):
    """Either ``successes`` of ``n`` episodes, or ``success`` with its standard error (null where unknown)."""

    vlm: Name
    benchmark: Name
    success: Finite | None = None
    standard_error: Error | None = None
    successes: Annotated[int, Field(ge=0)] | None = None
    n: Annotated[int, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "SuccessRow":
        counted = self.successes is not None and self.n is not None
        if counted == (self.success is not None) or (self.successes is None) != (self.n is None):
            raise ValueError("give either successes and n, or success with its standard_error")
        if counted and self.standard_error is not None:
            raise ValueError("the standard error of a count follows from successes and n")
        if self.successes is not None and self.n is not None and self.successes > self.n:
            raise ValueError(f"{self.successes} successes of {self.n} episodes")
        return self


R = TypeVar("R", ScoreRow, SuccessRow)


class _Scores(Config):
    rows: tuple[ScoreRow, ...]


class _Success(Config):
    rows: tuple[SuccessRow, ...]


@dataclass(frozen=True)
class Pairing:
    """What is correlated: one (task, metric) with one benchmark. ``notes`` name the VLMs that lack one side."""

    scores: str
    benchmark: str
    unit: str
    limits: tuple[float, float] | None
    points: tuple[Point, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Scale:
    """What success is measured in. ``limits``: the least and the most that there can be; null where nobody says."""

    unit: str
    limits: tuple[float, float] | None


SHARE = Scale("share of episodes", (0.0, 1.0))
OF_FILE = Scale("units of the file", None)


@dataclass(frozen=True)
class Measured:
    """Success rows of one source. ``scale``: of those that are no counts; counts are shares of episodes."""

    rows: tuple[SuccessRow, ...]
    scale: Scale = OF_FILE
    notes: tuple[str, ...] = ()


def correlations(scores: Path, success: Path) -> list[Correlation]:
    """Every score of a file against every benchmark of a file or study folder, with Holm's p over all of them."""
    return with_holm(
        [
            correlate(p.points, scores=p.scores, benchmark=p.benchmark, unit=p.unit, limits=p.limits, notes=p.notes)
            for p in pair(read_scores(scores), read_success(success))
        ]
    )


def read_scores(file: Path) -> list[ScoreRow]:
    rows = list(validate(_Scores, {"rows": _plain(file)}, source=str(file)).rows)
    families: dict[str, str] = {}
    for row in rows:
        if families.setdefault(row.vlm, row.family) != row.family:
            raise refuse(
                f"{file}: {row.vlm!r} is of family {families[row.vlm]!r} and of {row.family!r}",
                possible="one family per VLM",
                todo="Write the same family in all its rows.",
            )
    return rows


def read_success(source: Path) -> Measured:
    """From a file, or from the estimates of a study folder (an arm's name is the name of its VLM)."""
    if source.is_dir():
        return _of_study(source)
    return Measured(validate(_Success, {"rows": _plain(source)}, source=str(source)).rows)


def pair(scores: Sequence[ScoreRow], success: Measured) -> list[Pairing]:
    """Every (task, metric) with every benchmark; refuses two prompts within one task and a VLM that is there twice."""
    out: list[Pairing] = []
    for task, metric in dict.fromkeys((s.task, s.metric) for s in scores):
        of_task = [s for s in scores if (s.task, s.metric) == (task, metric)]
        prompts = _one("prompt", [s.prompt for s in of_task], f"{task}, {metric}")
        _one("evaluator", [s.evaluator for s in of_task], f"{task}, {metric}")
        left = _by_vlm(of_task, f"{task}, {metric}")
        for benchmark in dict.fromkeys(s.benchmark for s in success.rows):
            right = _by_vlm([s for s in success.rows if s.benchmark == benchmark], benchmark)
            scale = SHARE if all(row.successes is not None for row in right.values()) else success.scale
            alone = [
                f"Left out, without {what}: {', '.join(names)}."
                for what, names in (
                    ("success rate", [v for v in left if v not in right]),
                    ("score", [v for v in right if v not in left]),
                )
                if names
            ]
            out.append(
                Pairing(
                    scores=f"{task}, {metric}" + (f", prompt {prompts[0]}" if prompts != ["(none)"] else ""),
                    benchmark=benchmark,
                    unit=scale.unit,
                    limits=scale.limits,
                    points=tuple(_point(left[vlm], right[vlm]) for vlm in left if vlm in right),
                    notes=(*success.notes, *alone),
                )
            )
    return out


def _one(what: str, values: Sequence[str | None], where: str) -> list[str]:
    """The one value of a column; refuses several: they are several tests."""
    found = sorted({value or "(none)" for value in values})
    if len(found) > 1:
        raise refuse(
            f"{where}: scores under {len(found)} {what}s: {', '.join(found)}",
            possible=f"one {what} for all VLMs",
            todo=f"Keep the rows of one {what}, or call the other one another task.",
        )
    return found


def _point(score: ScoreRow, success: SuccessRow) -> Point:
    rate, error = success.success, success.standard_error
    if success.successes is not None and success.n is not None:
        rate = success.successes / success.n
        error = (rate * (1 - rate) / success.n) ** 0.5
    assert rate is not None
    return Point(
        vlm=score.vlm,
        family=score.family,
        score=score.score,
        score_error=score.standard_error,
        success=rate,
        success_error=error,
        successes=success.successes,
        trials=success.n,
    )


def _by_vlm(rows: Sequence[R], what: str) -> dict[str, R]:
    found: dict[str, R] = {}
    for row in rows:
        if row.vlm in found:
            raise refuse(f"{what}: {row.vlm!r} is there twice", possible="one row per VLM", todo="Keep one of them.")
        found[row.vlm] = row
    return found


def _of_study(folder: Path) -> Measured:
    """Means over the tasks of the arms without controls.

    The standard error is the recorded one, else half the interval over the normal quantile: that of a checkpoint, and
    of recipes in older records, for which it is too large. Of several estimands that one is taken which reaches
    furthest: recipes where there are any, and not their checkpoints beside them.
    """
    found = [e for e in read_all(folder / "estimates.jsonl", Estimate) if e.task is None and e.control is None]
    for estimand in ("E3", "E2", "E1"):
        rows = [e for e in found if e.estimand == estimand]
        if rows:
            made = tuple(
                SuccessRow(vlm=e.arm, benchmark=e.benchmark, success=e.rate, standard_error=_error(e)) for e in rows
            )
            chained = rows[0].measure == "completed"
            what = "Average subtasks in a row" if chained else "Success rates"
            return Measured(
                made,
                Scale("subtasks in a row", (0.0, float(max(e.longest or 1 for e in rows)))) if chained else SHARE,
                (f"{what} of estimand {estimand}; errors are {_origin(rows)} ({rows[0].method}).",),
            )
    raise refuse(
        f"{folder} has no estimates",
        possible="a folder that `vlm4vla study run` finished, or a file with vlm, benchmark, successes, n",
        todo="Finish the study, or give a file.",
    )


def _error(e: Estimate) -> float:
    if e.standard_error is not None:
        return e.standard_error
    return (e.high - e.low) / 2 / float(stats.norm.ppf((1 + e.level) / 2))


def _origin(rows: Sequence[Estimate]) -> str:
    """Where the errors of these come from."""
    if all(e.standard_error is not None for e in rows):
        return "those of training runs and starts"
    too_large = ", too large where training runs are few: the records hold no errors of their own"
    return "those of their intervals" + (too_large if rows[0].estimand == "E3" else "")


def _plain(file: Path) -> list[dict[str, Any]]:
    """The rows of a file as plain mappings; empty CSV cells count as absent."""
    readers: dict[str, Callable[[str], Any]] = {
        ".csv": _csv,
        ".json": json.loads,
        ".yaml": yaml.safe_load,
        ".yml": yaml.safe_load,
    }
    if not file.is_file() or file.suffix not in readers:
        raise refuse(
            f"{file} is not a file of rows" if file.exists() else f"No file {str(file)!r}",
            possible=f"a file ending in {', '.join(readers)}",
            todo="Give a file with one row per VLM and task.",
        )
    try:
        rows = readers[file.suffix](file.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError, csv.Error) as error:
        raise refuse(f"{file} cannot be read: {error}", possible=f"valid {file.suffix[1:]}", todo="Mend it.") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
        raise refuse(f"{file} holds no list of rows", possible="a list of mappings", todo="Write one row per VLM.")
    return [dict(row) for row in rows]


def _csv(text: str) -> list[dict[str, str]]:
    out: list[dict[str, str]] = []
    for i, row in enumerate(csv.DictReader(text.splitlines(), strict=True), start=2):
        if None in row:
            raise ValueError(f"line {i} has more cells than the header has names")
        out.append({key: value for key, value in row.items() if value})
    return out
