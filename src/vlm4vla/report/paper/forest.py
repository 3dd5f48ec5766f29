"""The forest plot: differences between arms with intervals, and the band of equivalence where it was declared."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from vlm4vla.records import Comparison
from vlm4vla.report.figures import BAND, COLOURS, GREY, INK, band_of
from vlm4vla.report.paper.lines import short
from vlm4vla.report.paper.source import TEXT, Missing, Plot, Source, Unit, standing
from vlm4vla.report.sentences import p_value, points, verdict

NAME, TITLE = "forest", "Differences between arms"
MOST = 40
"""Differences in the figure, the largest ones; the CSV file has all."""


def make(source: Source) -> Plot | Missing:
    study, unit = source.study, source.unit
    arms = {row.name for row in study.table if row.kind == "arm"} | {recipe.name for recipe in source.recipes}
    found = [c for c in study.comparisons if {c.a, c.b} <= arms]
    if not found:
        return Missing(NAME, TITLE, "no two arms were compared")
    kept = sorted(sorted(found, key=lambda c: -abs(c.difference))[:MOST], key=lambda c: -c.difference)
    first = found[0]
    runs = f"{first.seeds} training runs per arm" if first.pairs is None else "pairs of episodes on the same starts"
    band = band_of(found)
    parts = [
        f"Differences in {unit.difference}, first arm minus second.",
        f"{source.n}; differences over {runs}.",
        standing((c.level, c.interval_method, c.estimand) for c in found),
        f"p: {'; '.join(dict.fromkeys(c.p_method for c in found))}.",
        "Filled: the interval leaves out zero and p is below its level; hollow: neither better nor worse is shown.",
        "No bounds of equivalence were declared." if band is None else
        f"Grey band: equivalence within {unit.factor * band:g} {unit.name}, declared before the study; "
        "diamonds: shown to be equal within it (two one-sided tests, Holm).",
        f"The {MOST} largest of {len(found)} differences; the CSV file has all." if len(found) > MOST else "",
        *(f"Caution: {text}." for text in dict.fromkeys(c.caution for c in found if c.caution)),
    ]  # fmt: skip
    sides = {(c.a, c.b): study.sides(c) for c in found}
    titles = {pair: " − ".join(short(side, 28) for side in both) for pair, both in sides.items()}
    return Plot(
        NAME,
        TITLE,
        " ".join(part for part in parts if part),
        lambda: _draw(kept, titles, unit),
        tuple({"title": study.title(c)} | c.model_dump(mode="json") | {"drawn": c in kept} for c in found),
    )


def _draw(found: Sequence[Comparison], titles: dict[tuple[str, str], str], unit: Unit) -> Figure:
    made = Figure(figsize=(TEXT, 0.17 * len(found) + 0.5), layout="constrained")
    axes = made.subplots()
    band = band_of(found)
    if band is not None:
        axes.axvspan(-unit.factor * band, unit.factor * band, color=BAND, linewidth=0, zorder=0)
    for y, c in enumerate(found):
        found_to_be = verdict(c)
        apart = found_to_be in ("better", "worse")
        colour = COLOURS[0] if apart else GREY
        axes.plot(
            [unit.factor * c.low, unit.factor * c.high], [y, y], color=colour, linewidth=1.1, solid_capstyle="butt"
        )
        axes.plot(
            [unit.factor * c.difference], [y], marker="D" if found_to_be == "equal" else "s", markersize=3.8,
            linestyle="none", color=colour, markerfacecolor=colour if apart else "white", markeredgewidth=0.9,
        )  # fmt: skip
        value, low, high = (points(x, c.measure) for x in (c.difference, c.low, c.high))
        numbers = f"{value}  [{low}, {high}]  {p_value(c.p_value)}"
        axes.text(1.01, y, numbers, transform=axes.get_yaxis_transform(), va="center", fontsize=6.5, color=INK)
    axes.axvline(0, color=INK, linewidth=0.7)
    reach = max(unit.top / 20, *(1.04 * unit.factor * max(abs(c.low), abs(c.high)) for c in found))
    axes.set_xlim(-reach, reach)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_yticks(range(len(found)), [titles[c.a, c.b] for c in found])
    axes.tick_params(length=0)
    axes.grid(axis="x")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xlabel(f"difference in {unit.difference}")
    return made
