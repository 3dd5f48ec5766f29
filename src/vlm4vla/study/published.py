"""The paper's numbers worked through: counts with intervals, differences against baselines, correlations. No new data.

``paper/*.json`` (see ``vlm4vla.published``) become the tables of ``vlm4vla study published`` and the correlations of
``vlm4vla study correlate --published``.
"""

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from vlm4vla import published
from vlm4vla.published import Column, Number, Row, Table
from vlm4vla.report import published as page
from vlm4vla.report import tables
from vlm4vla.report.correlation import Correlation, Point, headline
from vlm4vla.report.tables import Cell, PrintTable
from vlm4vla.study.correlate import correlate, mmrv, pearson, with_holm

LEVEL = 0.95
READING_DRAWS, READING_SEED = 10_000, 0
CAVEAT = (
    "Published numbers, with what can be said about their uncertainty. Each is one training run, evaluated with the "
    "best of several checkpoints and executed horizons on the test starts themselves, so it is optimistic. Intervals "
    "hold episode noise alone. None of these numbers says how far a policy trained again would be off."
)


def build(out: Path) -> dict[str, Any]:
    """Write the page, tables and figures of the published numbers into ``out``; returns the paths."""
    found = correlations()
    made = [_print_table(name, published.load(name)) for name in published.TABLES]
    return page.build(
        page.Page(
            title="VLM4VLA (arXiv 2601.03309): the published numbers and what they can carry",
            lead=tuple(headline(c) for c in found),
            caveat=CAVEAT,
            tables=(*made, agreement()),
            correlations=tuple(found),
            sources=tuple((key, source.title, source.standing) for key, source in published.sources().items()),
        ),
        out,
    )


def correlations() -> list[Correlation]:
    """Per benchmark that the paper correlates: its success rates against the recovered axis of its figure."""
    main, scores, printed = (published.load(name) for name in ("main", "scores", "correlation"))
    axis = scores.columns[0]
    found: list[Correlation] = []
    for row in printed.rows:
        column = main.column(row.key)
        points = [_point(scores, score, main, column) for score in scores.rows]
        made = correlate(
            points, scores=axis.label, benchmark=column.label, unit=column.unit,
            limits=column.limits or (0.0, 100.0), level=LEVEL,
        )  # fmt: skip
        original = printed.number(row, printed.columns[0])
        assert original is not None
        words = f"The paper prints r = {original.printed}; from its table and the recovered axis it is {made.r:.3f}."
        notes = [words.replace("-", "−")]
        notes.append(_reading(points, scores))
        notes += [_sentence(column.error_note)] if column.error_note else []
        found.append(made.model_copy(update={"notes": tuple(notes)}))
    return with_holm(found)


def agreement() -> PrintTable:
    """Pearson's r and mean maximum rank violation of simulated against real success, per task of ``agreement.json``."""
    table = published.load("agreement")
    real, simulated = table.column("real"), table.column("simulated")
    rows: list[tables.Row] = []
    for task in dict.fromkeys(row.group for row in table.rows):
        own = [row for row in table.rows if row.group == task]
        x, y = (np.array([_value(table, row, column) for row in own]) for column in (real, simulated))
        cells = (Cell(f"{pearson(x, y):.3f}"), Cell(f"{mmrv(x, y):.3f}"), Cell(str(len(own))))
        rows.append(tables.Row("", task, cells))
    plain = tuple(
        {"task": r.label, "r": r.cells[0].text, "mmrv": r.cells[1].text, "policies": r.cells[2].text}
        for r in rows
        if r.cells[0] and r.cells[1] and r.cells[2]
    )
    return PrintTable(
        name="agreement-summary",
        title="Agreement of simulation and reality",
        caption=f"Computed from the table above. {table.caption} n: {table.n}. Estimand: {table.estimand}.",
        columns=("r", "MMRV", "policies"),
        rows=tuple(rows),
        plain=plain,
    )


def _value(table: Table, row: Row, column: Column) -> float:
    number = table.number(row, column)
    assert number is not None, f"{row.key} has no {column.key}"
    return number.value


def _point(scores: Table, score: Row, main: Table, column: Column) -> Point:
    row = main.row(score.key)
    number = main.number(row, column)
    assert number is not None and score.family is not None and score.family == row.family
    error = column.standard_error
    if number.successes is not None and number.trials is not None:
        rate = number.successes / number.trials
        error = 100 * (rate * (1 - rate) / number.trials) ** 0.5
    return Point(
        vlm=score.label,
        family=score.family,
        score=_value(scores, score, scores.columns[0]),
        success=number.value,
        success_error=error,
        successes=number.successes,
        trials=number.trials,
    )


def _reading(points: list[Point], scores: Table) -> str:
    """How far r moves when every score is off by as much as it can have been read off wrongly."""
    assert scores.error is not None
    generator = np.random.default_rng(READING_SEED)
    x, y = np.array([p.score for p in points]), np.array([p.success for p in points])
    wrong = x + generator.uniform(-scores.error, scores.error, (READING_DRAWS, len(x)))
    off = max(abs(pearson(values, y) - pearson(x, y)) for values in wrong)
    return f"Reading errors of ±{scores.error:g} in the scores move r by at most {off:.3f} ({READING_DRAWS:,} draws)."


def _print_table(name: str, table: Table) -> PrintTable:
    shown = [
        (column, is_delta) for column in table.columns for is_delta in ((False, True) if column.delta else (False,))
    ]
    rows = [
        tables.Row(row.group, row.label, tuple(_cell(table, row, column, is_delta) for column, is_delta in shown))
        for row in table.rows
    ]
    version = "version not stated" if table.version == "not stated" else table.version
    kind = f"Numbers are {table.kind}, within {table.error:g}. " if table.error else ""
    return PrintTable(
        name=name,
        title=table.title,
        caption=(
            f"{table.caption} {table.place}, {version}. {kind}n: {table.n}. Seeds: {table.seeds}. "
            f"Estimand: {table.estimand}."
        ),
        columns=tuple("Δ" if is_delta else _head(column) for column, is_delta in shown),
        rows=tuple(rows),
        plain=tuple(_plain(table, row, column, number) for row, column, number in table.numbers()),
    )


def _head(column: Column) -> str:
    unit = {"percent": "%", "billion parameters": "B"}.get(column.unit)
    return f"{column.label}, {unit}" if unit else column.label


def _cell(table: Table, row: Row, column: Column, is_delta: bool) -> Cell | None:
    number = table.number(row, column)
    if number is None:
        return None
    if not is_delta:
        small = ""
        if number.successes is not None:
            low, high = _interval(number)
            small = f"{number.successes}/{number.trials}, {low:.0f} to {high:.0f}%"
        return Cell(number.printed.replace("-", "−"), small, _marks(table, number), _title(number))
    found = difference(table, row, column)
    if found is None:
        return None
    relative = "" if found["relative"] is None else f"{_relative(found['relative'])}%"
    parts = [relative, f"{found['low']:.0f} to {found['high']:.0f}".replace("-", "−") if "low" in found else ""]
    if number.delta is not None:
        verdict = "as printed" if found["agrees"] else f"printed {number.delta}"
        parts.append(verdict)
    return Cell(_signed(found["difference"]), ", ".join(filter(None, parts)))


def difference(table: Table, row: Row, column: Column) -> dict[str, Any] | None:
    """A number minus its baseline, from the printed digits; None without a baseline or where one of them is missing.

    ``difference`` (Decimal), ``relative`` in percent of the baseline, ``agrees``: equal to the printed difference
    (None where none was printed); ``low`` and ``high``: Newcombe's interval in points where both are counts.
    """
    number = table.number(row, column)
    base = table.number(table.row(row.baseline), column) if row.baseline else None
    if number is None or base is None:
        return None
    value = Decimal(number.printed) - Decimal(base.printed)
    found: dict[str, Any] = {
        "difference": value,
        "relative": float(100 * value / Decimal(base.printed)) if base.value else None,
        "agrees": None if number.delta is None else Decimal(number.delta) == value,
    }
    if number.successes is not None and base.successes is not None:
        counts = (number.successes, number.trials, base.successes, base.trials)
        low, high = confint_proportions_2indep(*counts, method="newcomb", compare="diff", alpha=1 - LEVEL)
        found |= {"low": float(100 * low), "high": float(100 * high)}
    return found


def _interval(number: Number) -> tuple[float, float]:
    """Wilson, in percent."""
    low, high = proportion_confint(number.successes, number.trials, alpha=1 - LEVEL, method="wilson")
    return float(100 * low), float(100 * high)


def _marks(table: Table, number: Number) -> str:
    standing = published.sources()[number.source].standing
    marks = {"quarter": "q", "cut": "c", "unexplained": "u"}.get(number.averaging or "", "")
    if number.kind != table.kind:  # what holds for the whole table, its caption says
        marks += {"digitised": "d", "recovered": "r", "exact": "e"}[number.kind]
    marks += "s" if standing.startswith("second hand") else ""
    return marks + ("v" if number.version in ("OpenReview", "not stated") else "")


def _title(number: Number) -> str:
    error = f", ±{number.error:g}" if number.error is not None else ""
    words = f"{number.place}, {number.version}; {number.kind}{error}; source: {number.source}"
    return f"{words}. {number.note}" if number.note else words


def _plain(table: Table, row: Row, column: Column, number: Number) -> dict[str, object]:
    found = difference(table, row, column)
    low, high = _interval(number) if number.successes is not None else ("", "")
    line: dict[str, object] = {
        "row": row.key, "label": row.label, "group": row.group, "family": row.family, "column": column.key,
        "printed": number.printed, "unit": number.unit, "kind": number.kind, "error": number.error,
        "successes": number.successes, "trials": number.trials, "averaging": number.averaging,
        "low_percent": low, "high_percent": high, "baseline": row.baseline,
        "difference": found["difference"] if found else None, "difference_printed": number.delta,
        "difference_low": found.get("low") if found else None,
        "difference_high": found.get("high") if found else None,
        "source": number.source, "place": number.place, "version": number.version, "note": number.note,
    }  # fmt: skip
    return {key: "" if value is None else value for key, value in line.items()}


def _signed(value: Decimal | int) -> str:
    """A real minus sign; zero has none."""
    return f"{value:+}".replace("-", "−") if value else f"{value}"


def _relative(percent: float) -> str:
    """Whole percent, below one percent a decimal."""
    if percent == 0:
        return "0"
    return f"{percent:+.{0 if abs(percent) >= 1 else 1}f}".replace("-", "−")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
