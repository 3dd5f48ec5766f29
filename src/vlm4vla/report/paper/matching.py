"""Which published number may stand beside an arm: same checkpoint, same benchmark and tasks, same frozen groups.

Published values are never put beside results with visual stand-ins, with other models, or on other tasks.
"""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from vlm4vla import published
from vlm4vla.report.paper.source import Recipe, Source

NOT_COMPARABLE = "not comparable with published results"
"""A simulator says so in its versions where assets are stand-ins."""


@dataclass(frozen=True)
class Beside:
    """``numbers``: recipe name -> its published number. ``why``: where none is, the reason, else how to read them."""

    numbers: dict[str, published.Number]
    why: str


def beside(source: Source) -> Beside:
    """The published numbers of the study's arms."""
    column = _column(source)
    if column is None:
        return Beside({}, "No published value is put beside: the paper has none for this benchmark and these tasks.")
    versions = [text for recipe in source.recipes for row in recipe.rows for text in row.run.versions.values()]
    if any(NOT_COMPARABLE in text for text in versions):
        return Beside({}, "No published value is put beside: pictures here have visual stand-ins for published assets.")
    found = {recipe.name: number for recipe in source.recipes if (number := _number(recipe, column)) is not None}
    if not found:
        return Beside({}, "No published value is put beside: no arm trains a checkpoint of the paper as the paper did.")
    first = next(iter(found.values()))
    unit = "mean number of subtasks in a row" if first.unit == "subtasks in a row" else first.unit
    return Beside(
        found,
        f"Grey: as published ({unit}), one training run, the best of several checkpoints and executed horizons on the "
        "test starts themselves, hence optimistic (estimand E1); not part of any test here.",
    )


def _column(source: Source) -> str | None:
    for key, entry in _matching()["benchmarks"].items():
        if entry["id"] == source.study.file.benchmark and set(entry["tasks"]) == set(source.study.file.tasks):
            return str(key)
    return None


def _number(recipe: Recipe, column: str) -> published.Number | None:
    """From the table that fits what the arm trains: all of a pretrained model, parts of it, or from scratch."""
    if recipe.config is None:
        return None
    backbone = recipe.config.get("policy", {}).get("backbone", {})
    model = _matching()["checkpoints"].get(backbone.get("checkpoint"))
    frozen = recipe.facts("frozen_groups")
    if model is None or len(frozen) != 1:
        return None
    name, key = "main", model
    if backbone.get("init") == "scratch":
        name, key = "scratch", f"{model}-scratch"
        if frozen != [[]]:
            return None
    elif frozen != [[]]:
        rows = _matching()["frozen"]
        keys = [f"{model}-{part}" for part in ("vision", "word") if rows.get(f"{model}-{part}") == frozen[0]]
        if not keys:
            return None
        name, key = "freezing", keys[0]
    table = published.load(name)
    row = next((row for row in table.rows if row.key == key), None)
    of = next((c for c in table.columns if c.key == column), None)
    return None if row is None or of is None else table.number(row, of)


def size(recipe: Recipe) -> published.Number | None:
    """The published number of parameters of the arm's model, in billions."""
    backbone = (recipe.config or {}).get("policy", {}).get("backbone", {})
    model = _matching()["checkpoints"].get(backbone.get("checkpoint"))
    if model is None:
        return None
    table = published.load("main")
    return table.number(table.row(model), table.column("size"))


@cache
def _matching() -> Any:
    """Benchmarks, checkpoints and frozen groups as they are called here, with the keys of the published tables."""
    return json.loads((published.FOLDER / "matching.json").read_text(encoding="utf-8"))
