"""The figures, as deterministic SVG and PNG: success per task, comparisons; the style of all.

Nothing is computed here. Every figure comes in a wide and a narrow version, since a
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
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from vlm4vla.records import Comparison
from vlm4vla.report.folder import Study, TableRow
from vlm4vla.report.rates import families, shown
from vlm4vla.report.sentences import p_value, points, verdict

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, GREY, RULE, BAND = "#1b1b1b", "#6b6b6b", "#d9d9d9", "#E6E6E6"
WIDE, NARROW = 8.6, 4.1  # inches; 8.6 fills the page's column, 4.1 a phone
LINES = 60
"""Lines of a figure: a person reads no more. ``PAIRS``: those of the figure of differences."""
PAIRS = 24
PANELS = 360
"""Lines times panels: beyond it the mean is drawn alone, and the table has the tasks."""


@dataclass(frozen=True)
class Drawing:
    """One figure: inline-ready SVG in two widths, and a PNG of the wide one."""

    name: str
    description: str
    wide: str
    narrow: str
    png: bytes
    note: str = ""
    """What the caption adds: which of many lines are drawn."""


def draw(name: str, description: str, plot: Callable[[float], Figure], note: str = "") -> Drawing:
    """Render ``plot(width in inches)`` in both widths; the same records give the same bytes."""
    with style(name):
        wide, narrow = plot(WIDE), plot(NARROW)
        for figure in (wide, narrow):
            engine = figure.get_layout_engine()
            if engine is not None:
                engine.execute(figure)  # once; each file would do so again
            figure.set_layout_engine("none")
        png = _png(wide)
        return Drawing(name, description, _svg(wide, f"{name}-wide"), _svg(narrow, f"{name}-narrow"), png, note)


def _png(figure: Figure) -> bytes:
    """Written by the canvas itself: ``savefig`` would draw twice."""
    buffer = io.BytesIO()
    figure.set_facecolor("white")
    figure.dpi = 160
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


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


_DIGITS = re.compile(r"(\.\d\d)\d+")
"""A hundredth of a point is seen by nobody; matplotlib writes millionths, half of a figure's bytes."""


def _svg(figure: Figure, prefix: str) -> str:
    """SVG without XML header, size in the style sheet's hands, ids unique within the page."""
    buffer = io.StringIO()
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_facecolor("none")
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)  # matplotlib repeats each text in a comment
    text = re.sub(r'\b(?:d|x|y)="[^"]*"', lambda found: _DIGITS.sub(r"\1", found[0]), text)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    return re.sub(
        r'^<svg ([^>]*?)width="[^"]*"', r"<svg \1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    )


def success(study: Study) -> Drawing:
    """Dot plot: a panel per task and one for the mean; a row per table row; bars are intervals."""
    level = next((e.level for row in study.table for e in row.estimates.values()), 0.95)
    rows, note = _success_rows(study)
    return draw(
        "success",
        f"{scale_of(study).title} per task with {100 * level:g}% intervals, one line per policy",
        lambda width: _success(study, rows, width),
        note,
    )


def _success_rows(study: Study) -> tuple[list[TableRow], str]:
    """All rows of the table; of too many, references and the arms with the highest rates."""
    rows = display_order(study)
    arms = [row for row in rows if row.kind == "arm" and None in row.estimates]
    if len(rows) <= LINES:
        return rows, ""
    best = sorted(arms, key=lambda row: -row.estimates[None].rate)[:LINES]
    note = f"Drawn: references and the {len(best)} highest of {len(arms)} arms; the table has all lines."
    return [row for row in rows if row.kind == "reference" and row.arm != "do-nothing"] + best, note


def _success(study: Study, rows: Sequence[TableRow], width: float) -> Figure:
    panels = panels_of(study, len(rows))
    scale = scale_of(study)
    columns = min(len(panels), 4 if width > 6 else 1)
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(width, lines * (0.66 + 0.24 * len(rows)) + 0.25), layout=layout())
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    colours = {arm.name: i for i, arm in enumerate(study.file.arms)}
    for axes, task in zip(grid.flat, panels, strict=False):
        for y, row in enumerate(rows):
            _dot(axes, y, row, task, colours, scale.factor)
        axes.set_title(
            "Mean of all tasks" if task is None else wrapped(task, 19 if width > 6 else 60),
            loc="left",
            fontweight="bold",
        )
        axes.set_xlim(-0.03 * scale.ticks[-1], 1.03 * scale.ticks[-1])
        axes.set_xticks(scale.ticks)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [short(_label(row), 30 if width > 6 else 26) for row in rows])
        for tick, row in zip(axes.get_yticklabels(), rows, strict=False):  # inner panels share the labels
            tick.set_color(INK if row.kind == "arm" else GREY)
        axes.tick_params(length=0, labelbottom=True)
        axes.grid(axis="x")
        axes.spines[["left", "bottom"]].set_visible(False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel(scale.axis, fontsize=9, color=GREY)
    return figure


@dataclass(frozen=True)
class Scale:
    """How numbers are drawn: times ``factor`` on an axis with these ``ticks``."""

    factor: float
    ticks: tuple[int, ...]
    axis: str
    title: str
    differences: str


def scale_of(study: Study) -> Scale:
    if study.measure == "success":
        return Scale(100, (0, 25, 50, 75, 100), "success rate (%)", "Success rate", "success rate (points)")
    longest = max(e.longest or 1 for row in study.table for e in row.estimates.values())
    words = "subtasks solved in a row"
    return Scale(1, tuple(range(longest + 1)), f"{words}, average", words.capitalize(), words)


def panels_of(study: Study, lines: int) -> list[str | None]:
    """The mean (null), and every task where that stays readable."""
    tasks = study.file.tasks if lines * (1 + len(study.file.tasks)) <= PANELS else []
    return [None, *tasks]


def _dot(axes: Axes, y: int, row: TableRow, task: str | None, colours: Mapping[str, int], scale: float) -> None:
    estimate = row.estimates.get(task)
    if estimate is None:
        return
    index = colours.get(row.arm)
    colour = GREY if index is None else COLOURS[index % len(COLOURS)]
    marker = "|" if index is None else MARKERS[index % len(MARKERS)]
    axes.plot([scale * estimate.low, scale * estimate.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot(
        [scale * estimate.rate],
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
    found = study.comparisons
    if not found:
        return None
    level = found[0].level
    drawn = shown(study, PAIRS)
    title, members = families(study)[0]
    family = f"{len(members)} between arms" if title == "Arms" else f"{len(members)}"
    largest = f"The {len(drawn)} largest of {family}; the table has all." if len(drawn) < len(found) else ""
    return draw(
        "comparisons",
        f"Differences in {scale_of(study).differences} with {100 * level:g}% intervals",
        lambda width: _forest(study, drawn, width),
        " ".join(filter(None, (_band_words(study, drawn), largest))),
    )


def band_of(found: Sequence[Comparison]) -> float | None:
    """The difference that was declared to count as none, in the unit of the differences; null where none was."""
    return max((c.equivalence for c in found if c.equivalence is not None), default=None)


def _band_words(study: Study, drawn: Sequence[Comparison]) -> str:
    band = band_of(drawn)
    if band is None:
        return ""
    unit = "points" if study.measure == "success" else "subtasks in a row"
    return (
        f"Band: arms nearer than {scale_of(study).factor * band:g} {unit} count as equal, as declared before the "
        "study; diamonds: shown to be equal within it."
    )


def _forest(study: Study, drawn: Sequence[Comparison], width: float) -> Figure:
    wide = width > 6
    count = len(drawn)
    figure = Figure(figsize=(width, (0.34 if wide else 0.68) * count + 0.75), layout=layout())
    axes = figure.subplots()
    scale = scale_of(study)
    reach = max(max(abs(c.low), abs(c.high)) for c in drawn) * 1.08 * scale.factor
    band = band_of(drawn)
    if band is not None:
        axes.axvspan(-scale.factor * band, scale.factor * band, color=BAND, linewidth=0, zorder=0)
        reach = max(reach, 1.08 * scale.factor * band)
    for y, c in enumerate(drawn):
        found_to_be = verdict(c)
        colour = INK if found_to_be in ("better", "worse") else GREY
        marker = "D" if found_to_be == "equal" else "s"
        low, value, high = (scale.factor * x for x in (c.low, c.difference, c.high))
        axes.plot([low, high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
        axes.plot([value], [y], marker=marker, color=colour, markersize=6, linestyle="none")
        if wide:
            axes.text(1.02, y, _numbers(c), transform=axes.get_yaxis_transform(), va="center", fontsize=8.5)
        else:
            for dy, text, ink in ((-0.5, short(study.title(c), 56), INK), (-0.26, _numbers(c), GREY)):
                axes.text(
                    0, y + dy, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=ink,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
                )  # fmt: skip
    axes.axvline(0, color=INK, linewidth=0.8)
    widest = max(reach, scale.ticks[-1] / 20)
    axes.set_xlim(-widest, widest)
    axes.set_ylim(count - (0.35 if wide else 0.6), -0.65 if wide else -0.75)
    names = [short(study.title(c), 60) for c in drawn]
    axes.set_yticks(range(count), names if wide else [""] * count)
    axes.tick_params(length=0)
    axes.grid(axis="x")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xlabel(f"difference in {scale.differences}")
    return figure


def _numbers(c: Comparison) -> str:
    value, low, high = (points(x, c.measure) for x in (c.difference, c.low, c.high))
    return f"{value}  [{low}, {high}]  {p_value(c.p_value)}"


def display_order(study: Study) -> list[TableRow]:
    """Ceiling and other references first, then each arm with its controls below it, the floor last."""
    first = [r for r in study.table if r.kind == "reference" and r.arm != "do-nothing"]
    last = [r for r in study.table if r.arm == "do-nothing"]
    return first + [r for r in study.table if r not in first and r not in last] + last


def _label(row: TableRow) -> str:
    return f"with {row.control}" if row.kind == "control" else row.label


def layout() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.06)


def wrapped(text: str, width: int) -> str:
    """At most two lines, broken at spaces and hyphens."""
    return "\n".join(textwrap.wrap(" ".join(text.split()), width, max_lines=2, placeholder="…"))


def short(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
