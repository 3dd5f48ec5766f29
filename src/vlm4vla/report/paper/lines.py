"""Lines over a common axis, one colour and marker an arm; more arms than colours get a panel each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vlm4vla.report.figures import COLOURS, GREY, MARKERS, RULE
from vlm4vla.report.paper.source import COLUMN, MANY, TEXT


@dataclass(frozen=True)
class Series:
    """``low``, ``high``: limits of ``y``, null where there are none. ``runs``: the same of single training runs.

    ``ringed``: places that were chosen.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float | None]
    high: Sequence[float | None]
    runs: Sequence[Sequence[float]] = ()
    ringed: Sequence[int] = ()


@dataclass(frozen=True)
class Look:
    """``ticks``: places and words of the x axis. ``top``: end of the y axis, which begins at 0."""

    x_label: str
    y_label: str
    ticks: tuple[Sequence[float], Sequence[str]]
    top: float
    log: bool = False


def panels(groups: Sequence[tuple[str, Sequence[Series]]], look: Look) -> Figure:
    """One panel a group with a common legend; where a group has too many arms, one panel an arm and group."""
    labels = list(dict.fromkeys(s.label for _, series in groups for s in series))
    if len(labels) > MANY:
        return _spread(groups, look)
    columns = min(len(groups), 3)
    lines = math.ceil(len(groups) / columns)
    legend = math.ceil(len(labels) / (2 if len(groups) == 1 else 4))
    width = COLUMN if len(groups) == 1 else TEXT
    made = Figure(figsize=(width, 2.1 * lines + 0.16 * legend), layout="constrained")
    grid = made.subplots(lines, columns, sharey=True, squeeze=False)
    limits = any(value is not None for _, series in groups for s in series for value in s.low)
    handles = {}
    for axes, (title, series) in zip(grid.flat, groups, strict=False):
        for s in series:
            i = labels.index(s.label)
            handles[s.label] = _line(axes, s, look, COLOURS[i], MARKERS[i], _aside(i, len(labels)) if limits else 0.0)
        _finish(axes, title, look)
    for axes in grid.flat[len(groups) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(look.y_label)
    made.legend(
        [handles[label] for label in labels], [short(label, 32) for label in labels], loc="outside upper left",
        frameon=False, ncols=2 if len(groups) == 1 else 4, columnspacing=1.0, handlelength=1.6, borderaxespad=0.1,
    )  # fmt: skip
    return made


def _spread(groups: Sequence[tuple[str, Sequence[Series]]], look: Look) -> Figure:
    """Every arm before the others in grey; colours mean nothing here. One axes holds all panels: many are slow."""
    every = [(f"{s.label}{', ' if title else ''}{title}", s, series) for title, series in groups for s in series]
    columns, aside, below = 5, 1.1, 1.4
    lines = math.ceil(len(every) / columns)
    made = Figure(figsize=(TEXT, 1.0 * lines + 0.35), layout="constrained")
    axes = made.subplots()
    axes.set_axis_off()
    for i, (title, own, series) in enumerate(every):
        x, y = aside * (i % columns), -below * (i // columns)
        heights = [y, y + 0.5, y + 1]
        axes.hlines(heights, x, x + 1, color=RULE, linewidth=0.5, zorder=0)
        others = [_moved(s, look, x, y) for s in series]
        axes.plot(*_joined([(s.x, s.y) for s in others]), color=RULE, linewidth=0.6, zorder=1)
        _line(axes, _moved(own, look, x, y), look, COLOURS[0], MARKERS[0], 0.0)
        axes.text(x, y + 1.08, short(title, 20), va="bottom", fontsize=6.5)
        if i % columns == 0:
            for height, share in zip(heights, (0.0, 0.5, 1.0), strict=True):
                axes.text(-0.03, height, f"{share * look.top:g}", ha="right", va="center", fontsize=6, color=GREY)
        if i + columns >= len(every):
            for place, word in zip(*look.ticks, strict=True):
                axes.text(x + _share(place, look), y - 0.08, word, ha="center", va="top", fontsize=6, color=GREY)
    axes.set_xlim(-0.15, aside * columns)
    axes.set_ylim(-below * (lines - 1) - 0.25, 1.3)
    made.supxlabel(look.x_label, fontsize=7, color=GREY)
    made.supylabel(look.y_label, fontsize=7, color=GREY)
    return made


def _share(x: float, look: Look) -> float:
    """Where ``x`` stands in a panel that is one wide."""
    first, last, here = (math.log(v) if look.log else v for v in (look.ticks[0][0], look.ticks[0][-1], x))
    return 0.08 + 0.84 * (here - first) / ((last - first) or 1)


def _moved(s: Series, look: Look, right: float, up: float) -> Series:
    """The same in a panel that is one wide and one high, with its lower left corner at ``right``, ``up``."""

    def high(values: Sequence[float | None]) -> list[float | None]:
        return [None if v is None else up + v / look.top for v in values]

    def heights(values: Sequence[float]) -> list[float]:
        return [up + v / look.top for v in values]

    return Series(
        s.label, [right + _share(x, look) for x in s.x], heights(s.y), high(s.low), high(s.high),
        [heights(run) for run in s.runs], s.ringed,
    )  # fmt: skip


def _joined(lines: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[list[float], list[float]]:
    """Several lines as one with gaps: a figure with few artists is drawn much faster."""
    return [v for x, _ in lines for v in (*x, math.nan)], [v for _, y in lines for v in (*y, math.nan)]


def _aside(i: int, count: int) -> float:
    """Share of the least step between ticks by which an arm's limits stand beside those of the others."""
    return 0.0 if count == 1 else 0.32 * (i / (count - 1) - 0.5)


def _line(axes: Axes, s: Series, look: Look, colour: str, marker: str, aside: float) -> Line2D:
    places = look.ticks[0]
    if look.log:
        ratio = min((b / a for a, b in pairwise(places)), default=2.0)
        x = [v * ratio**aside for v in s.x]
    else:
        step = min((b - a for a, b in pairwise(places)), default=1.0)
        x = [v + aside * step for v in s.x]
    if s.runs:
        axes.plot(*_joined([(x, run) for run in s.runs]), color=colour, linewidth=0.5, alpha=0.45, zorder=2)
    bars = [
        (v, low, high) for v, low, high in zip(x, s.low, s.high, strict=True) if low is not None and high is not None
    ]
    if bars:
        axes.vlines(*zip(*bars, strict=True), color=colour, linewidth=1.0, zorder=3)
    (drawn,) = axes.plot(
        x, s.y, color=colour, linewidth=1.2, marker=marker, markersize=4, markeredgecolor="white",
        markeredgewidth=0.4, zorder=4,
    )  # fmt: skip
    if s.ringed:
        axes.plot(
            [x[i] for i in s.ringed], [s.y[i] for i in s.ringed], linestyle="none", marker="o", markersize=8,
            markerfacecolor="none", markeredgecolor=colour, markeredgewidth=0.9, zorder=5,
        )  # fmt: skip
    return drawn


def _finish(axes: Axes, title: str, look: Look) -> None:
    if look.log:
        axes.set_xscale("log")
    axes.set_xticks(*look.ticks)
    axes.minorticks_off()
    axes.set_ylim(-0.02 * look.top, 1.02 * look.top)
    axes.set_xlabel(look.x_label)
    axes.set_title(title, loc="left")
    axes.grid(axis="y")
    axes.tick_params(length=0, labelcolor=GREY)


def short(text: str, limit: int) -> str:
    """On one line, at most ``limit`` letters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
