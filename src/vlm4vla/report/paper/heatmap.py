"""Every arm on every task, as a map of rates."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from vlm4vla.records import Estimate
from vlm4vla.report.figures import INK
from vlm4vla.report.paper.lines import short
from vlm4vla.report.paper.source import COLUMN, OLDER, TEXT, Missing, Plot, Recipe, Source, cautions, numbers

NAME, TITLE = "heatmap", "Success of every arm on every task"
NARROW = 5
"""Up to so many arms fit into one column of a page."""


def make(source: Source) -> Plot | Missing:
    if source.appendix is None:
        return Missing(NAME, TITLE, OLDER)
    if len(source.study.file.tasks) < 2 or not source.appendix.tasks:
        return Missing(NAME, TITLE, "the study has one task")
    found = {(e.arm, str(e.task)): e for e in source.appendix.tasks}
    tasks = list(source.study.file.tasks)
    arms = source.best_first
    one = next(iter(found.values()))
    caption = (
        f"Success in percent, best arm to the left, and the mean over tasks. {source.n}; a number of a task stands on "
        f"{one.episodes} episodes. Intervals are in the CSV file. {source.standing(found.values())} "
        + cautions(found.values())
    )
    plain = tuple(
        {"arm": recipe.name, "label": recipe.label, "task": task, **numbers(found[recipe.name, task])}
        for recipe in arms
        for task in tasks
        if (recipe.name, task) in found
    )
    return Plot(NAME, TITLE, caption, lambda: _draw(arms, tasks, found), plain)


def _draw(arms: Sequence[Recipe], tasks: Sequence[str], found: dict[tuple[str, str], Estimate]) -> Figure:
    rates = np.full((len(tasks) + 1, len(arms)), np.nan)
    for j, recipe in enumerate(arms):
        for i, task in enumerate(tasks):
            if (recipe.name, task) in found:
                rates[i, j] = 100 * found[recipe.name, task].rate
        if recipe.mean is not None:
            rates[-1, j] = 100 * recipe.mean.rate
    wide = len(arms) > NARROW
    many = len(tasks) > 25
    labels = [short(recipe.label, 26) for recipe in arms]
    height = (0.13 if many else 0.19) * len(rates) + 0.055 * max(map(len, labels)) + 0.25
    made = Figure(figsize=(TEXT if wide else COLUMN, height), layout="constrained")
    axes = made.subplots()
    colours = mpl.colormaps["Blues"].with_extremes(bad="white")
    axes.imshow(rates, cmap=colours, vmin=0, vmax=110, aspect="auto")  # at 100 the darkest blue is not yet black
    for (i, j), rate in np.ndenumerate(rates):
        text = "–" if np.isnan(rate) else f"{int(rate + 0.5)}"
        axes.text(
            j, i, text, ha="center", va="center", fontsize=5 if many else 6.5,
            color="white" if rate > 70 else INK,
        )  # fmt: skip
    axes.axhline(len(tasks) - 0.5, color="white", linewidth=2)
    axes.set_xticks(range(len(arms)), labels, rotation=55, ha="left", rotation_mode="anchor", color=INK)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(rates)), [*(short(task, 44 if wide else 26) for task in tasks), "mean"])
    axes.tick_params(length=0, labelsize=5.5 if many else 6.5)
    axes.spines[:].set_visible(False)
    return made
