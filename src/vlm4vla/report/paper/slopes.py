"""Freezing: success from everything trained to parts frozen, within one model, a line for every seed."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlm4vla.report.figures import COLOURS, GREY, INK, MARKERS
from vlm4vla.report.paper.lines import short
from vlm4vla.report.paper.source import COLUMN, TEXT, Missing, Plot, Recipe, Source, Unit, numbers

NAME, TITLE = "slopes", "Freezing"


@dataclass(frozen=True)
class Model:
    """One model, otherwise trained alike: frozen groups -> arm, fewest frozen first."""

    label: str
    arms: tuple[tuple[tuple[str, ...], Recipe], ...]


def make(source: Source) -> Plot | Missing:
    found = models(source.recipes)
    if not found:
        return Missing(NAME, TITLE, "no two arms of one model differ in what is frozen")
    means = [recipe.mean for model in found for _, recipe in model.arms]
    several = source.seeds > 1
    caption = (
        f"{source.unit.caption} by what is frozen, {len(found)} model{'' if len(found) == 1 else 's'}. {source.n}. "
        f"{source.standing(means)} Markers: mean of each arm"
        + (
            "; thin lines: its training runs, joined by seed, which makes them no pairs (no test here pairs seeds)."
            if several
            else "."
        )
    )
    plain = [
        {"model": model.label, "frozen": _words(groups), "arm": recipe.name, "run": run, "seed": seed, **values}
        for model in found
        for groups, recipe in model.arms
        for run, seed, values in _lines(recipe)
    ]
    return Plot(NAME, TITLE, caption, lambda: _draw(found, source.unit), tuple(plain))


def models(recipes: Sequence[Recipe]) -> list[Model]:
    """Arms whose training runs differ in frozen groups alone (and in a tuned learning rate), by their settings."""
    groups: dict[str, list[tuple[tuple[str, ...], Recipe]]] = {}
    for recipe in recipes:
        frozen = recipe.facts("frozen_groups")
        if recipe.config is not None and len(frozen) == 1:
            groups.setdefault(_key(recipe.config), []).append((tuple(sorted(frozen[0])), recipe))
    out: list[Model] = []
    for arms in groups.values():
        if len({frozen for frozen, _ in arms}) == len(arms) > 1:
            backbone = (arms[0][1].config or {}).get("policy", {}).get("backbone", {})
            ordered = sorted(arms, key=lambda entry: (len(entry[0]), entry[0]))
            out.append(Model(_name(backbone), tuple(ordered)))
    return out


def _key(config: dict[str, Any]) -> str:
    optimizer = {k: v for k, v in config.get("optimizer", {}).items() if k != "lr"}
    kept = {k: config.get(k) for k in ("policy", "batch", "steps", "precision", "init_from")}
    return json.dumps(kept | {"optimizer": optimizer}, sort_keys=True)


def _name(backbone: dict[str, Any]) -> str:
    """``Qwen2.5-VL-3B-Instruct`` of a published id; family and preset, or that it is a folder, of others."""
    checkpoint = str(backbone.get("checkpoint", ""))
    owner, *rest = checkpoint.split("/")
    kind = checkpoint.removeprefix("preset:") if not rest else "local checkpoint"
    name = rest[0] if len(rest) == 1 and owner.strip(".") else f"{backbone.get('family')}, {kind}"
    return f"{name}, from scratch" if backbone.get("init") == "scratch" else name


def _words(groups: Sequence[str]) -> str:
    return " + ".join(groups) or "nothing"


def _lines(recipe: Recipe) -> list[tuple[str | None, int | None, dict[str, object]]]:
    """The arm's mean, then every checkpoint: row name, training seed, numbers."""
    out: list[tuple[str | None, int | None, dict[str, object]]] = []
    if recipe.mean is not None and len(recipe.rows) > 1:
        out.append((None, None, numbers(recipe.mean)))
    for row, trained in zip(recipe.rows, recipe.training, strict=True):
        if (estimate := row.estimates.get(None)) is not None:
            out.append((row.arm, trained.run.seed if trained.run else None, numbers(estimate)))
    return out


def _draw(found: Sequence[Model], unit: Unit) -> Figure:
    columns = min(len(found), 4)
    lines = math.ceil(len(found) / columns)
    made = Figure(figsize=(COLUMN if columns < 3 else TEXT, 2.0 * lines), layout="constrained")
    grid = made.subplots(lines, columns, sharey=True, squeeze=False)
    for i, (axes, model) in enumerate(zip(grid.flat, found, strict=False)):
        _panel(axes, model, unit, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
    for axes in grid.flat[len(found) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(unit.axis)
    return made


def _panel(axes: Axes, model: Model, unit: Unit, colour: str, marker: str) -> None:
    places = range(len(model.arms))
    by_seed: dict[object, list[tuple[int, float]]] = {}
    for x, (_, recipe) in zip(places, model.arms, strict=True):
        for row, trained in zip(recipe.rows, recipe.training, strict=True):
            if (estimate := row.estimates.get(None)) is not None and len(recipe.rows) > 1:
                seed = trained.run.seed if trained.run else row.arm
                by_seed.setdefault(seed, []).append((x, unit.factor * estimate.rate))
    for points in by_seed.values():
        axes.plot(*zip(*points, strict=True), color=GREY, linewidth=0.7, marker=".", markersize=2.5, zorder=2)
    means = [(x, recipe.mean) for x, (_, recipe) in zip(places, model.arms, strict=True) if recipe.mean is not None]
    for x, mean in means:
        axes.plot(
            [x, x],
            [unit.factor * mean.low, unit.factor * mean.high],
            color=colour,
            linewidth=1.3,
            solid_capstyle="butt",
            zorder=3,
        )
    axes.plot(
        [x for x, _ in means], [unit.factor * mean.rate for _, mean in means], color=colour, linewidth=1.5,
        marker=marker, markersize=5, markeredgecolor="white", markeredgewidth=0.5, zorder=4,
    )  # fmt: skip
    axes.set_xticks(list(places), [_words(groups).replace(" + ", "\n+ ") for groups, _ in model.arms])
    axes.set_xlim(-0.35, len(model.arms) - 0.65)
    axes.set_ylim(-0.02 * unit.top, 1.02 * unit.top)
    axes.set_title(short(model.label, 34), loc="left", color=INK)
    axes.set_xlabel("frozen")
    axes.grid(axis="y")
    axes.tick_params(length=0, labelcolor=GREY)
