"""What one evaluation found, in numbers with intervals: ``vlm4vla summary FOLDER``, and the last words of ``eval``.

All of it is estimand E2: this checkpoint on starts like these.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlm4vla import records, registry
from vlm4vla.records import EpisodeRow, RunRecord
from vlm4vla.report.sentences import row_name
from vlm4vla.study import compare
from vlm4vla.study.chains import told
from vlm4vla.study.intervals import Interval, chains, wilson
from vlm4vla.study.successes import chain_lengths
from vlm4vla.types import Benchmark, Split, refuse


def summary(folder: Path) -> list[dict[str, Any]]:
    """One line per number. Keys: row, task (null: mean over tasks), what, n, value, low, high, level, estimand, method.

    ``what`` is "success" (a rate), for chains of subtasks "in a row: average", "in a row: K" (rates of at least K
    solved in a row; intervals over the distinct initial states) and "subtask: NAME" (``n``: how often it was tried).
    """
    file = folder / "rows.jsonl"
    if not (folder / "run.json").is_file() or not file.is_file():
        raise refuse(
            f"{folder} holds no evaluation",
            possible="a folder that `vlm4vla eval ... --out FOLDER` wrote",
            todo="Give that folder.",
        )
    run = records.read_one(folder / "run.json", RunRecord)
    bench: Benchmark = registry.find("bench", str(run.config["bench"])).Benchmark()
    rows = told(records.read_all(file, EpisodeRow), bench, run.config["split"])
    lines: list[dict[str, Any]] = []
    single = [row for row in rows if row.completed is None]
    for e in compare.estimates(single) if single else []:
        interval = Interval(e.estimand, e.rate, e.low, e.high, e.level, e.method)
        lines.append(_line(row_name(e.arm, e.control), e.task, "success", e.episodes, interval))
    chained = [row for row in rows if row.completed is not None]
    for control in dict.fromkeys(row.control for row in chained):
        for task in dict.fromkeys(row.task for row in chained):
            part = [row for row in chained if (row.control, row.task) == (control, task)]
            if part:
                lines += _chains(part, bench, run.config["split"])
    return lines


def sentences(lines: Sequence[dict[str, Any]]) -> list[str]:
    """The same for people: the mean over tasks where there are several, every task, every number of a chain."""
    out = []
    tasks = {line["task"] for line in lines if line["task"] is not None}
    for line in lines:
        if line["task"] is None and len(tasks) == 1:
            continue
        name = f"{line['row']}  {line['task'] or 'mean over tasks'}  {line['what']}"
        scale, unit, digits = (1.0, "", 2) if line["what"].endswith("average") else (100.0, " %", 1)
        value, low, high = (f"{scale * line[key]:.{digits}f}" for key in ("value", "low", "high"))
        out.append(f"{name}: {value}{unit} ({low} to {high}), n = {line['n']}")
    return out


def _chains(rows: Sequence[EpisodeRow], bench: Benchmark, split: Split) -> list[dict[str, Any]]:
    """Chains of one task and control."""
    first = rows[0]
    name = row_name(first.arm, first.control)
    lengths, states, longest = chain_lengths(rows, name)
    lines = []
    if len(set(states.tolist())) > 1:
        for key, interval in chains(lengths, states, longest).items():
            lines.append(_line(name, first.task, f"in a row: {key}", len(rows), interval))
    starts = bench.episodes(split, first.task, 1 + max(row.episode for row in rows))
    subtasks: dict[int, list[str]] = {s.index: bench.describe(s)["subtasks"] for s in starts}  # type: ignore[attr-defined]  # as Benchmark says
    tried: dict[str, list[bool]] = {}
    for row in rows:
        assert row.completed is not None
        for place, subtask in enumerate(subtasks[row.episode][: row.completed + 1]):
            tried.setdefault(subtask, []).append(place < row.completed)
    for subtask in sorted(tried):
        solved, n = sum(tried[subtask]), len(tried[subtask])
        lines.append(_line(name, first.task, f"subtask: {subtask}", n, wilson(solved, n)))
    return lines


def _line(row: str, task: str | None, what: str, n: int, interval: Interval) -> dict[str, Any]:
    return {"row": row, "task": task, "what": what, "n": n} | asdict(interval)
