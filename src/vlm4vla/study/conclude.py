"""What a finished study says: estimates, comparisons, audit and ``study.json``, from the records of its runs."""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vlm4vla import records, registry
from vlm4vla.records import Comparison, EpisodeRow, Estimate, RunRecord
from vlm4vla.report.build import build
from vlm4vla.report.paper import record
from vlm4vla.report.sentences import row_name
from vlm4vla.schemas import EvalConfig, StudyConfig
from vlm4vla.study import appendix, audit, compare, recipes, tuning
from vlm4vla.study.cells import Cell
from vlm4vla.study.chains import told
from vlm4vla.types import Benchmark

Key = tuple[str, str | None]
"""Which rows: an arm and a control (None: the arm itself)."""


def conclude(
    config: StudyConfig, out: Path, found: Sequence[Cell], references: Sequence[EvalConfig], made: Mapping[str, Any]
) -> None:
    """Write the study's records and its report into ``out``. ``made``: command, wall_s and estimate_s of study.json."""
    bench: Benchmark = registry.find("bench", config.bench).Benchmark()
    rows = told(rows_of([*references, *(cell.eval for cell in found)]), bench, "eval")
    runs = {cell.name: records.read_one(cell.train.out / "run.json", RunRecord) for cell in found}
    played = {cell.name: records.read_one(cell.eval.out / "run.json", RunRecord) for cell in found}
    means, differences = _recipes(config, found, rows)
    records.write_all(out / "estimates.jsonl", [*means, *compare.estimates(rows)])
    records.write_all(out / "comparisons.jsonl", [*differences, *_comparisons(config, found, rows)])
    records.write_one(out / record.FILE, appendix.appendix(config, found, rows))
    records.write_atomic(out / "audit.json", json.dumps(audit.audit(config, runs, played), indent=1) + "\n")
    records.write_atomic(
        out / "study.json", json.dumps(_summary(config, out, found, references) | dict(made), indent=1) + "\n"
    )
    build(out, out / "report")


def rows_of(evaluations: Sequence[EvalConfig]) -> list[EpisodeRow]:
    """All rows of these evaluations."""
    return [row for e in evaluations for row in records.read_all(e.out / "rows.jsonl", EpisodeRow)]


def _recipes(
    config: StudyConfig, found: Sequence[Cell], rows: Sequence[EpisodeRow]
) -> tuple[list[Estimate], list[Comparison]]:
    """What holds for the arms when they are trained again; nothing can be said of one training run each."""
    if len(config.seeds) < 2:
        return [], []
    of_arm: dict[str, list[list[EpisodeRow]]] = {}
    for cell in found:
        own = [row for row in rows if row.arm == cell.name and row.control is None]
        of_arm.setdefault(cell.arm, []).append(own)
    return recipes.conclude(of_arm, equivalence=config.equivalence, variances=config.variances)


def _comparisons(config: StudyConfig, found: Sequence[Cell], rows: Sequence[EpisodeRow]) -> list[Comparison]:
    """First arm against every other, each arm against its controls and the floor; Holm over the whole family.

    With several seeds arms are compared as recipes, and no checkpoint of one with a checkpoint of another.
    """
    pairs: list[tuple[Key, Key]] = []
    if len(config.seeds) == 1:
        first, *others = found
        pairs += [((first.name, None), (other.name, None)) for other in others]
    for cell in found:
        pairs += [((cell.name, None), (cell.name, control)) for control in config.arms[cell.arm].controls]
        pairs += [((cell.name, None), (floor, None)) for floor in config.references if floor == "do-nothing"]
    by_key: dict[Key, list[EpisodeRow]] = {}
    for row in rows:
        by_key.setdefault((row.arm, row.control), []).append(row)
    compared = [compare.compare(by_key[a], by_key[b], row_name(*a), row_name(*b)) for a, b in pairs]
    return compare.adjusted(compared)


def _summary(config: StudyConfig, out: Path, found: Sequence[Cell], references: Sequence[EvalConfig]) -> dict[str, Any]:
    bench: Benchmark = registry.find("bench", config.bench).Benchmark()
    return {
        "name": config.name,
        "title": config.title,
        "caveat": " ".join([config.caveat, *getattr(bench, "caveats", ())]),
        "factor": config.factor,
        "benchmark": bench.id,
        "tasks": list(config.tasks),
        "instructions": {task: bench.instruction(task) for task in config.tasks},
        "arms": [
            {
                "name": cell.name,
                "label": _label(config, cell),
                "recipe": cell.arm,
                "recipe_label": config.arms[cell.arm].label,
                "run": os.path.relpath(cell.train.out, out),
                "eval": os.path.relpath(cell.eval.out, out),
            }
            for cell in found
        ],
        "references": [
            {"name": e.arm, "label": e.arm.replace("-", " "), "eval": os.path.relpath(e.out, out)} for e in references
        ],
        "tuning": tuning.document(config, out),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _label(config: StudyConfig, cell: Cell) -> str:
    label = config.arms[cell.arm].label
    return label if len(config.seeds) == 1 else f"{label}, seed {cell.seed}"
