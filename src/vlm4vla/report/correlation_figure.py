"""The correlation figure: a panel per benchmark, colour and shape by family, errors of both axes, the fitted line.

Below each panel a strip of what is left of r when one family is left out, in the colour and shape of that family.
"""

import io
import math
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlm4vla.records import write_atomic
from vlm4vla.report.correlation import Correlation, Point, p_words, signed
from vlm4vla.report.figures import COLOURS, GREY, INK, MARKERS, RULE, Drawing, draw, style

COLUMN, TEXT = 3.35, 6.9
"""Inches: one column and the whole width of a two-column page."""


def drawing(found: Sequence[Correlation]) -> Drawing:
    """For the page: SVG in two widths."""
    return draw(
        "correlation",
        "Success against VLM score, one panel per benchmark, with error bars and the fitted line",
        lambda width: figure(found, width),
    )


def write_print(found: Sequence[Correlation], folder: Path, name: str = "correlation") -> list[Path]:
    """PDF and SVG at the width of a column (NAME) and of a two-column page (NAME-wide); same numbers, same bytes."""
    out: list[Path] = []
    with style(name):
        mpl.rcParams.update({"font.size": 7.5, "axes.titlesize": 7.5, "pdf.fonttype": 42})
        for width, suffix in ((COLUMN, ""), (TEXT, "-wide")):
            drawn = figure(found, width)
            for ending, metadata in (("pdf", {"CreationDate": None}), ("svg", {"Date": None})):
                buffer = io.BytesIO()
                drawn.savefig(buffer, format=ending, facecolor="white", metadata={"Creator": None, **metadata})
                out.append(folder / f"{name}{suffix}.{ending}")
                write_atomic(out[-1], buffer.getvalue())
    return out


def figure(found: Sequence[Correlation], width: float) -> Figure:
    columns = min(len(found), 3 if width > 6 else 1)
    lines = math.ceil(len(found) / columns)
    panel = width / columns
    made = Figure(figsize=(width, lines * min(0.85 * panel + 0.95, 3.1) + 0.55), layout="constrained")
    grid = made.subplots(2 * lines, columns, squeeze=False, gridspec_kw={"height_ratios": [6, 1] * lines})
    panels, strips = list(grid[::2].flat), list(grid[1::2].flat)
    families = list(dict.fromkeys(p.family for c in found for p in c.points))
    for axes, strip, correlation in zip(panels, strips, found, strict=False):
        _panel(axes, correlation, families)
        _strip(strip, correlation, families)
    for axes in (*panels[len(found) :], *strips[len(found) :]):
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    for axes in panels[1 : len(found)]:  # a family may have no VLM in the first panel
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    order = [labels.index(f) for f in families]
    made.legend(
        [handles[i] for i in order], [labels[i] for i in order], loc="outside upper left", frameon=False,
        ncols=min(len(families), 6 if width > 6 else 4), handletextpad=0.2, columnspacing=1.0, borderaxespad=0.1,
    )  # fmt: skip
    return made


def _panel(axes: Axes, c: Correlation, families: Sequence[str]) -> None:
    for family in dict.fromkeys(p.family for p in c.points):
        own = [p for p in c.points if p.family == family]
        i = families.index(family)
        axes.errorbar(
            [p.score for p in own],
            [p.success for p in own],
            xerr=_errors([p.score_error for p in own]),
            yerr=_errors([p.success_error for p in own]),
            fmt=MARKERS[i % len(MARKERS)],
            color=COLOURS[i % len(COLOURS)],
            markersize=5,
            elinewidth=0.9,
            label=family,
            zorder=3,
        )
    ends = np.array([min(p.score for p in c.points), max(p.score for p in c.points)])
    axes.plot(ends, c.intercept + c.slope * ends, color=INK, linewidth=1.0, linestyle="--" if c.undecided else "-")
    axes.set_title(
        f"{c.benchmark}\nr = {signed(c.r)} [{signed(c.low)}, {signed(c.high)}], {p_words(c.p)}", loc="left", color=INK
    )
    axes.set_xlabel(c.scores)
    axes.set_ylabel(f"success, {c.unit}")
    axes.grid(color=RULE, linewidth=0.5)
    axes.tick_params(length=0, labelcolor=GREY)
    axes.margins(0.06)
    _name(axes, c)


def _strip(axes: Axes, c: Correlation, families: Sequence[str]) -> None:
    """r and its interval as a bar, and r without each family as a marker."""
    axes.plot([c.low, c.high], [0, 0], color=RULE, linewidth=5, solid_capstyle="butt", zorder=1)
    axes.plot([c.r, c.r], [-1, 1], color=INK, linewidth=1.2, zorder=2)
    for left in c.families_left_out:
        if left.r is not None:
            i = families.index(left.left_out)
            axes.plot(left.r, 0, MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)], markersize=4.5, zorder=3)
    told = "" if c.family_range is None else f": {signed(c.family_range[0])} to {signed(c.family_range[1])}"
    axes.set(xlim=(-1.05, 1.05), ylim=(-1.6, 1.6), yticks=[], xticks=[-1, -0.5, 0, 0.5, 1])
    axes.set_xlabel(f"r without one family{told}")
    axes.grid(axis="x", color=RULE, linewidth=0.5)
    axes.tick_params(length=0, labelcolor=GREY)
    axes.spines["left"].set_visible(False)


def _name(axes: Axes, c: Correlation) -> None:
    """Beside each marker what tells it from its family, in turn above and below, so that neighbours keep apart."""
    short = short_names(c.points)
    low, high = min(p.score for p in c.points), max(p.score for p in c.points)
    for i, p in enumerate(sorted(c.points, key=lambda p: p.score)):
        left, below = p.score > low + 0.75 * (high - low), (len(c.points) - i) % 2 == 0
        axes.annotate(
            short[p.vlm], (p.score, p.success), xytext=(-3.5 if left else 3.5, -7.5 if below else 2.5),
            textcoords="offset points", fontsize=5.5, color=GREY, ha="right" if left else "left", zorder=4,
        )  # fmt: skip


def short_names(points: Sequence[Point]) -> dict[str, str]:
    """``Qwen3VL-2B``, ``Qwen3VL-4B`` of one family -> ``2B``, ``4B``; alone in a family -> nothing, colour says it."""
    out: dict[str, str] = {}
    for family in dict.fromkeys(p.family for p in points):
        names = [p.vlm for p in points if p.family == family]
        same = "".join(letters[0] for letters in takewhile(lambda x: len(set(x)) == 1, zip(*names, strict=False)))
        shared = re.sub(r"[A-Za-z0-9.]*$", "", same)  # never into a word or number
        out |= {name: name[len(shared) :] if len(names) > 1 else "" for name in names}
    return out


def _errors(values: Sequence[float | None]) -> list[float] | None:
    """Bars of one standard error; none at all where none is known."""
    return None if all(v is None for v in values) else [v or 0.0 for v in values]
