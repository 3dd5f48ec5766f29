"""How many subtasks in a row: the rate of at least 1, 2, ... of every arm."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from vlm4vla.records import Estimate
from vlm4vla.report.paper.lines import Look, Series, panels
from vlm4vla.report.paper.source import OLDER, Missing, Plot, Recipe, Source, cautions, count, numbers
from vlm4vla.report.sentences import percent

NAME, TITLE = "survival", "Subtasks in a row"


def make(source: Source) -> Plot | Missing:
    if source.study.measure == "success":
        return Missing(NAME, TITLE, "no task of this study is a chain of subtasks")
    means = {recipe.name: _mean(source, recipe) for recipe in source.recipes}
    if not all(means.values()):
        return Missing(NAME, TITLE, OLDER)
    first = next(iter(means.values()))[0]
    states = {r.initial_state for r in source.recipes[0].rows[0].rows}
    averages = [
        f"{r.label} {percent(r.mean.rate, r.mean.measure)} [{percent(r.mean.low, r.mean.measure)}, "
        f"{percent(r.mean.high, r.mean.measure)}]"
        for r in source.best_first
        if r.mean is not None
    ]
    parts = [
        f"Rate of chains with at least that many subtasks solved in a row. n = {first.episodes:,} chains per arm"
        + (f" from {len(states)} initial states" if None not in states else "")
        + f", {count(source.seeds, 'training run')}.",
        source.standing(e for mean in means.values() for e in mean),
        "Thin lines: single training runs." if source.seeds > 1 else "",
        f"Average number in a row: {'; '.join(averages)}.",
        cautions(e for mean in means.values() for e in mean),
    ]
    plain = [
        {"arm": recipe.name, "label": recipe.label, "run": run, **numbers(e)}
        for recipe in source.recipes
        for run, own in _runs(recipe, means[recipe.name], source.seeds)
        for e in own
    ]
    drawn = [(recipe, means[recipe.name]) for recipe in source.recipes]
    return Plot(NAME, TITLE, " ".join(part for part in parts if part), lambda: _draw(drawn), tuple(plain))


def _mean(source: Source, recipe: Recipe) -> Sequence[Estimate]:
    """Of the recipe; with one training run, of its checkpoint."""
    if source.seeds == 1:
        return recipe.rows[0].in_a_row
    return [e for e in source.appendix.chains if e.arm == recipe.name] if source.appendix else []


def _runs(recipe: Recipe, mean: Sequence[Estimate], seeds: int) -> list[tuple[str | None, Sequence[Estimate]]]:
    own: list[tuple[str | None, Sequence[Estimate]]] = [(row.arm, row.in_a_row) for row in recipe.rows]
    return own if seeds == 1 else [(None, mean), *own]


def _draw(found: Sequence[tuple[Recipe, Sequence[Estimate]]]) -> Figure:
    series = [
        Series(
            recipe.label, [e.in_a_row or 0 for e in mean], [100 * e.rate for e in mean], [100 * e.low for e in mean],
            [100 * e.high for e in mean],
            [[100 * e.rate for e in row.in_a_row] for row in recipe.rows] if len(recipe.rows) > 1 else (),
        )
        for recipe, mean in found
    ]  # fmt: skip
    ticks = sorted({e.in_a_row or 0 for _, mean in found for e in mean})
    return panels(
        [("", series)], Look("subtasks in a row, at least", "chains (%)", (ticks, list(map(str, ticks))), 100.0)
    )
