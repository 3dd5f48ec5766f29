"""Success by recipe: the interval for retraining where there is one, and every training run as a small dot."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlm4vla.records import Estimate
from vlm4vla.report.figures import (
    COLOURS,
    GREY,
    INK,
    LINES,
    MARKERS,
    Drawing,
    draw,
    layout,
    panels_of,
    scale_of,
    short,
    wrapped,
)  # fmt: skip
from vlm4vla.report.folder import Study, TableRow


def recipes(study: Study) -> Drawing:
    """A line per recipe, best first, between ceiling and floor; a panel for the mean and one per task."""
    found = sorted(study.recipes, key=lambda e: -e.rate)
    drawn = found[:LINES]
    scale = scale_of(study)
    note = "" if len(found) == len(drawn) else f"Drawn: the {len(drawn)} highest of {len(found)}; the table has all."
    if len(panels_of(study, len(drawn))) == 1 and len(study.file.tasks) > 1:
        note = f"{note} The mean alone is drawn; the table has the tasks.".strip()
    return draw(
        "success",
        f"{scale.title} of each recipe with {100 * found[0].level:g}% intervals, and of its training runs",
        lambda width: _recipes(study, drawn, width),
        note,
    )


def _recipes(study: Study, drawn: Sequence[Estimate], width: float) -> Figure:
    wide, scale = width > 6, scale_of(study)
    first = [row for row in study.table if row.kind == "reference" and row.arm != "do-nothing"]
    last = [row for row in study.table if row.arm == "do-nothing"]
    count = len(first) + len(drawn) + len(last)
    panels = panels_of(study, count)
    columns = min(len(panels), (4 if wide else 1))
    lines = -(-len(panels) // columns)
    each = 0.24 if count <= 12 else 0.19
    figure = Figure(figsize=(width, lines * (0.66 + each * count) + 0.25), layout=layout())
    grid = figure.subplots(lines, columns, squeeze=False)
    labels = [row.label for row in first] + [study.labels[e.arm] for e in drawn] + [row.label for row in last]
    runs = [[row for row in study.table if row.kind == "arm" and row.arm in _names(study, e.arm)] for e in drawn]
    size = 9 if count <= 12 else 7.5
    few = len(drawn) <= len(COLOURS)
    for panel, (axes, task) in enumerate(zip(grid.flat, panels, strict=False)):
        ends = [(y, [row]) for y, row in [*enumerate(first), *enumerate(last, start=len(first) + len(drawn))]]
        _ticks(axes, ends, task, scale.factor, GREY)
        own = [(y, rows) for y, rows in enumerate(runs, start=len(first))]
        for place in range(len(drawn)) if few else [0]:
            part = own[place : place + 1] if few else own
            colour = COLOURS[place]
            _dots(axes, part, task, scale.factor, colour)
            if task is not None:
                _ticks(axes, part, task, scale.factor, colour)
                continue
            means = [drawn[y - len(first)] for y, _ in part]
            heights = [y for y, _ in part]
            low, high = ([scale.factor * getattr(e, end) for e in means] for end in ("low", "high"))
            axes.hlines(heights, low, high, color=colour, linewidth=1.6)
            axes.plot(
                [scale.factor * e.rate for e in means], heights, marker=MARKERS[place], color=colour, markersize=5.5,
                linestyle="none", clip_on=False,
            )  # fmt: skip
        axes.set_title(
            ("Mean of all tasks" if len(study.file.tasks) > 1 else "Success")
            if task is None
            else wrapped(task, 19 if wide else 60),
            loc="left",
            fontweight="bold",
        )
        axes.set_xlim(-0.03 * scale.ticks[-1], 1.03 * scale.ticks[-1])
        axes.set_xticks(scale.ticks)
        axes.set_ylim(count - 0.4, -0.6)
        # Ticks are what drawing costs: only the panels at the left have those that are read.
        named = range(count) if panel % columns == 0 else ()
        axes.set_yticks(named, [short(labels[y], 30 if wide else 26) for y in named], fontsize=size)
        for y, tick in zip(named, axes.get_yticklabels(), strict=False):
            tick.set_color(INK if len(first) <= y < len(first) + len(drawn) else GREY)
        axes.tick_params(length=0)
        axes.grid(axis="x")
        axes.spines[["left", "bottom"]].set_visible(False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel(scale.axis, fontsize=9, color=GREY)
    return figure


def _names(study: Study, recipe: str) -> set[str]:
    return {arm.name for arm in study.file.arms if arm.recipe == recipe}


Part = Sequence[tuple[int, Sequence[TableRow]]]
"""Heights in the panel, with the rows that are drawn there."""


def _dots(axes: Axes, part: Part, task: str | None, factor: float, colour: str) -> None:
    """Training runs as faint dots, dense where they agree."""
    points = [(factor * row.estimates[task].rate, y) for y, rows in part for row in rows if task in row.estimates]
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(
            x, y, marker="o", markersize=3, markeredgewidth=0, alpha=0.35, color=colour, linestyle="none", clip_on=False
        )


def _ticks(axes: Axes, part: Part, task: str | None, factor: float, colour: str) -> None:
    """The mean of the rows at each height as a tick."""
    of_height = {y: [factor * row.estimates[task].rate for row in rows if task in row.estimates] for y, rows in part}
    means = {y: sum(values) / len(values) for y, values in of_height.items() if values}
    axes.plot(
        list(means.values()), list(means), marker="|", markersize=8, markeredgewidth=1.6, color=colour, linestyle="none"
    )
