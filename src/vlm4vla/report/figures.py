"""The figures, as deterministic SVG and PNG: success per task, comparisons, learning curves.

Nothing is computed here but a running mean for the eye. Every figure comes in a wide and a narrow version, since a
figure scaled down to a phone cannot be read. Colours are those of Okabe and Ito (2008), told apart by colour-blind
readers; the shape of the marker says the same again for a print in grey.
"""

import io
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, NullFormatter

from vlm4vla.records import Comparison
from vlm4vla.report.folder import Study, TableRow, Training
from vlm4vla.report.sentences import p_value, points

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, GREY, RULE = "#1b1b1b", "#6b6b6b", "#d9d9d9"
WIDE, NARROW = 8.6, 4.1  # inches; 8.6 fills the page's column, 4.1 a phone
CURVES = ("loss", "arm_loss", "gripper_loss", "grad_norm")


@dataclass(frozen=True)
class Drawing:
    """One figure: inline-ready SVG in two widths, and a PNG of the wide one."""

    name: str
    description: str
    wide: str
    narrow: str
    png: bytes


def draw(name: str, description: str, plot: Callable[[float], Figure]) -> Drawing:
    """Render ``plot(width in inches)`` in both widths; the same records give the same bytes."""
    with style(name):
        wide, narrow = plot(WIDE), plot(NARROW)
        for figure in (wide, narrow):
            figure.draw_without_rendering()  # lays out once; each file would do so again
            figure.set_layout_engine("none")
        buffer = io.BytesIO()
        wide.savefig(buffer, format="png", dpi=160, facecolor="white", metadata={"Software": None})
        return Drawing(name, description, _svg(wide, f"{name}-wide"), _svg(narrow, f"{name}-narrow"), buffer.getvalue())


@contextmanager
def style(salt: str) -> Iterator[None]:
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "svg.hashsalt": salt,
                "svg.fonttype": "path",  # text as outlines: the layout does not depend on the reader's fonts
                "text.parse_math": False,  # a task may be called "$x$"
                "text.usetex": False,
                "font.size": 9,
                "axes.titlesize": 9,
                "axes.edgecolor": RULE,
                "axes.labelcolor": GREY,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "text.color": INK,
                "xtick.color": GREY,
                "ytick.color": INK,
                "grid.color": RULE,
                "grid.linewidth": 0.6,
            }
        )
        yield


def _svg(figure: Figure, prefix: str) -> str:
    """SVG without XML header, size in the style sheet's hands, ids unique within the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)  # matplotlib repeats each text in a comment
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    return re.sub(
        r'^<svg ([^>]*?)width="[^"]*"', r"<svg \1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    )


def success(study: Study) -> Drawing:
    """Dot plot: a panel per task and one for the mean; a row per table row; bars are intervals."""
    level = next((e.level for row in study.table for e in row.estimates.values()), 0.95)
    return draw(
        "success",
        f"Success rate per task with {100 * level:g}% intervals, one line per policy",
        lambda width: _success(study, width),
    )


def _success(study: Study, width: float) -> Figure:
    panels: list[str | None] = [None, *study.file.tasks]
    rows = _display_order(study)
    columns = min(len(panels), 4 if width > 6 else 1)
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(width, lines * (0.66 + 0.24 * len(rows)) + 0.25), layout=_layout())
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    colours = {arm.name: i for i, arm in enumerate(study.file.arms)}
    for axes, task in zip(grid.flat, panels, strict=False):
        for y, row in enumerate(rows):
            _dot(axes, y, row, task, colours)
        axes.set_title(
            "Mean of all tasks" if task is None else _wrapped(task, 19 if width > 6 else 60),
            loc="left",
            fontweight="bold",
        )
        axes.set_xlim(-3, 103)
        axes.set_xticks([0, 25, 50, 75, 100])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [_short(_label(row), 30 if width > 6 else 26) for row in rows])
        for tick, row in zip(axes.get_yticklabels(), rows, strict=False):  # inner panels share the labels
            tick.set_color(INK if row.kind == "arm" else GREY)
        axes.tick_params(length=0, labelbottom=True)
        axes.grid(axis="x")
        axes.spines[["left", "bottom"]].set_visible(False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel("success rate (%)", fontsize=9, color=GREY)
    return figure


def _dot(axes: Axes, y: int, row: TableRow, task: str | None, colours: Mapping[str, int]) -> None:
    estimate = row.estimates.get(task)
    if estimate is None:
        return
    index = colours.get(row.arm)
    colour = GREY if index is None else COLOURS[index % len(COLOURS)]
    marker = "|" if index is None else MARKERS[index % len(MARKERS)]
    axes.plot([100 * estimate.low, 100 * estimate.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot(
        [100 * estimate.rate],
        [y],
        marker=marker,
        color=colour,
        markersize=9 if marker == "|" else 6,
        markeredgewidth=1.6 if row.kind != "arm" else 1.0,
        markerfacecolor="white" if row.kind == "control" else colour,
        linestyle="none",
        clip_on=False,
    )


def comparisons(study: Study) -> Drawing | None:
    """Forest plot of the recorded differences in points; none without comparisons."""
    if not study.comparisons:
        return None
    level = study.comparisons[0].level
    return draw(
        "comparisons",
        f"Paired differences in success rate with {100 * level:g}% intervals",
        lambda width: _forest(study, width),
    )


def _forest(study: Study, width: float) -> Figure:
    wide = width > 6
    count = len(study.comparisons)
    figure = Figure(figsize=(width, (0.34 if wide else 0.68) * count + 0.75), layout=_layout())
    axes = figure.subplots()
    reach = max(max(abs(c.low), abs(c.high)) for c in study.comparisons) * 108
    for y, c in enumerate(study.comparisons):
        colour = INK if c.low > 0 or c.high < 0 else GREY
        axes.plot([100 * c.low, 100 * c.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
        axes.plot([100 * c.difference], [y], marker="s", color=colour, markersize=6, linestyle="none")
        if wide:
            axes.text(1.02, y, _numbers(c), transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
        else:
            for dy, text, ink in ((-0.5, _short(study.title(c), 56), INK), (-0.26, _numbers(c), GREY)):
                axes.text(
                    0, y + dy, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=ink,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
                )  # fmt: skip
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlim(-max(reach, 5), max(reach, 5))
    axes.set_ylim(count - (0.35 if wide else 0.6), -0.65 if wide else -0.75)
    names = [_short(study.title(c), 60) for c in study.comparisons]
    axes.set_yticks(range(count), names if wide else [""] * count)
    axes.tick_params(length=0)
    axes.grid(axis="x")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xlabel("difference in success rate (points)")
    return figure


def _numbers(c: Comparison) -> str:
    return f"{points(c.difference)}  [{points(c.low)}, {points(c.high)}]  {p_value(c.p_value)}"


def learning(study: Study) -> Drawing | None:
    """Training curves of all arms; none where no arm was trained."""
    keys = [k for k in CURVES if any(getattr(m, k) is not None for t in study.training for m in t.metrics)]
    if not keys:
        return None
    return draw("learning", "Learning curves per arm", lambda width: _learning(study.training, keys, width))


def _learning(training: Sequence[Training], keys: Sequence[str], width: float) -> Figure:
    columns = 2 if width > 6 else 1
    lines = -(-len(keys) // columns)
    figure = Figure(figsize=(width, 1.9 * lines + 0.4), layout=_layout())
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, key in zip(grid.flat, keys, strict=False):
        positive = True
        for i, run in enumerate(training):
            kept = [(m.step, getattr(m, key)) for m in run.metrics if getattr(m, key) is not None]
            if not kept:
                continue
            step, value = np.array(kept, dtype=np.float64).T
            positive = positive and bool(np.all(value[np.isfinite(value)] > 0))
            colour = COLOURS[i % len(COLOURS)]
            axes.plot(step, value, color=colour, linewidth=0.7, alpha=0.35)
            axes.plot(step, running_mean(value), color=colour, linewidth=1.6, label=_short(run.arm.label, 34))
        if positive:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(key.replace("_", " "), loc="left", fontweight="bold")
        axes.tick_params(length=0, labelcolor=GREY, which="both")
        axes.grid(axis="y")
        axes.set_xlabel("step")
    for axes in grid.flat[len(keys) :]:
        axes.set_visible(False)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2 if width > 6 else 1, frameon=False)
    return figure


def running_mean(value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Centred mean of the finite values over 5 % of the points; the window shrinks at the ends. (N,) -> (N,)."""
    half = len(value) // 40
    finite = np.isfinite(value)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, value, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    index = np.arange(len(value))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(value))
    with np.errstate(invalid="ignore"):
        return np.asarray((total[high] - total[low]) / (count[high] - count[low]))


def _display_order(study: Study) -> list[TableRow]:
    """Ceiling and other references first, then each arm with its controls below it, the floor last."""
    first = [r for r in study.table if r.kind == "reference" and r.arm != "do-nothing"]
    last = [r for r in study.table if r.arm == "do-nothing"]
    return first + [r for r in study.table if r not in first and r not in last] + last


def _label(row: TableRow) -> str:
    return f"with {row.control}" if row.kind == "control" else row.label


def _layout() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.06)


def _wrapped(text: str, width: int) -> str:
    """At most two lines, broken at spaces and hyphens."""
    return "\n".join(textwrap.wrap(" ".join(text.split()), width, max_lines=2, placeholder="…"))


def _short(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
