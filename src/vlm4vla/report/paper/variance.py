"""Where the spread of success comes from: standard deviations of the sources with their limits, and their shares."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from vlm4vla.report.figures import COLOURS, GREY, INK
from vlm4vla.report.paper.record import VariancePart
from vlm4vla.report.paper.source import COLUMN, OLDER, Missing, Plot, Source, Unit
from vlm4vla.report.sentences import percent

NAME, TITLE = "variance", "Sources of the spread of success"
WORDS = {
    "retrain": "training again",
    "retrain, all tasks alike": "… all tasks alike",
    "retrain x task": "… task by task",
    "task": "task",
    "start": "start within a task",
    "episode": "single episode",
}
OF_CHAINS = {"start": "initial state", "episode": "the rest"}


def make(source: Source) -> Plot | Missing:
    if source.appendix is None:
        return Missing(NAME, TITLE, OLDER)
    parts = source.appendix.variance
    if not parts:
        return Missing(NAME, TITLE, "with one training run per arm nothing is known about training again")
    unit = "percentage points" if source.study.measure == "success" else source.unit.name
    level = f"{100 * parts[0].level:g}%"
    caption = (
        f"Standard deviations in {unit}, pooled over {len(source.recipes)} arms. {source.n}. {level} "
        f"intervals: analysis of variance by the method of moments, chi-square limits of each mean square less the "
        f"smaller components. Training again: of an arm's mean over exactly these tasks (what estimand E3 is about; "
        f"{parts[0].df} degrees of freedom), split into what all tasks share and what is a task's own. Percent: share "
        f"of their sum, the variance of one outcome."
    )
    return Plot(
        NAME, TITLE, caption, lambda: _draw(parts, source.unit), tuple(part.model_dump(mode="json") for part in parts)
    )


def _draw(parts: Sequence[VariancePart], unit: Unit) -> Figure:
    made = Figure(figsize=(COLUMN, 0.21 * len(parts) + 0.5), layout="constrained")
    axes = made.subplots()
    words = WORDS if unit.measure == "success" else WORDS | OF_CHAINS
    most = max(unit.factor * part.sd for part in parts)
    reach = max(1.25 * most, 0.01 * unit.top)
    for y, part in enumerate(parts):
        colour = COLOURS[1] if part.source == "retrain" else COLOURS[0]
        high = min(unit.factor * part.high, reach)
        axes.plot([unit.factor * part.low, high], [y, y], color=colour, linewidth=1.3, solid_capstyle="butt")
        if unit.factor * part.high > reach:  # few degrees of freedom: the limit lies beyond the axis
            axes.plot([reach], [y], marker=">", color=colour, markersize=3.5, linestyle="none", clip_on=False)
        axes.plot([unit.factor * part.sd], [y], marker="o", color=colour, markersize=4, linestyle="none")
        share = "" if part.share is None else f" · {100 * part.share:.0f} %"
        axes.text(
            1.03, y, f"{percent(part.sd, unit.measure)}{share}", transform=axes.get_yaxis_transform(), va="center",
            fontsize=6.5, color=INK,
        )  # fmt: skip
    axes.set_xlim(0, reach)
    axes.set_ylim(len(parts) - 0.5, -0.5)
    axes.set_yticks(range(len(parts)), [words.get(part.source, part.source) for part in parts])
    axes.tick_params(length=0)
    axes.grid(axis="x")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xlabel(f"standard deviation of {unit.difference}", color=GREY)
    return made
