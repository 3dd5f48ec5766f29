"""What this study's design can find: power against the true difference, for several numbers of training runs."""

from matplotlib.figure import Figure

from vlm4vla.report.figures import COLOURS, GREY, INK
from vlm4vla.report.paper.record import Power
from vlm4vla.report.paper.source import COLUMN, OLDER, Missing, Plot, Source, Unit
from vlm4vla.report.sentences import percent

NAME, TITLE = "power", "What this design can find"


def make(source: Source) -> Plot | Missing:
    if source.appendix is None:
        return Missing(NAME, TITLE, OLDER)
    power = source.appendix.power
    if power is None:
        return Missing(NAME, TITLE, "there is one arm, or nothing varied")
    measure, words = source.unit.measure, source.unit.name
    sd = f"{percent(power.retrain_sd, measure)} {words}"
    if power.measured and power.low is not None and power.high is not None:
        limits = f"{percent(power.low, measure)} to {percent(power.high, measure)}"
        origin = f"measured here: {sd}, {100 * power.level:g}% interval {limits}"
    else:
        origin = f"assumed, since one training run per arm shows none: {sd}"
    own = next((line for line in power.lines if line.seeds == power.seeds), None)
    found = (
        f"With its {power.seeds} runs per arm this study finds {percent(own.detectable, measure)} {words} with 80% "
        "power."
        if own is not None
        else "With its one run per arm this study can say nothing about recipes."
    )
    caption = (
        f"Chance that a true difference between two of {power.arms} recipes is found (estimand E3; two-sided t, "
        f"retrain variance pooled over the arms, alpha {power.alpha:.2g}: Holm's first step over {power.comparisons} "
        f"comparison{'' if power.comparisons == 1 else 's'}), by training runs per arm. SD over retraining "
        f"{origin}. n = {power.episodes} episodes per run, whose noise is {power.noise}. "
        f"{found}" + (" Band: at the limits of the SD." if len(power.limits) == 2 else "")
    )
    plain = [
        {
            "seeds": line.seeds, "retrain_sd": line.retrain_sd, "difference": difference, "power": chance,
            "own_seeds": line.seeds == power.seeds, "sd_is": kind, "detectable_at_80_percent": line.detectable,
        }
        for kind, lines in (("measured" if power.measured else "assumed", power.lines), ("limit", power.limits))
        for line in lines for difference, chance in line.points
    ]  # fmt: skip
    bounds = {c.equivalence for c in source.study.comparisons if c.equivalence is not None}
    return Plot(NAME, TITLE, caption, lambda: _draw(power, source.unit, max(bounds, default=None)), tuple(plain))


def _draw(power: Power, unit: Unit, bound: float | None) -> Figure:
    made = Figure(figsize=(COLUMN, 2.3), layout="constrained")
    axes = made.subplots()
    if len(power.limits) == 2:
        low, high = power.limits
        x = [unit.factor * d for d, _ in low.points]
        chances = [100 * p for _, p in low.points], [100 * p for _, p in high.points]
        axes.fill_between(x, *chances, color=COLOURS[0], alpha=0.15, linewidth=0)
    reach = unit.factor * power.lines[0].points[-1][0]
    for line in power.lines:
        own = line.seeds == power.seeds
        x, y = [unit.factor * d for d, _ in line.points], [100 * p for _, p in line.points]
        axes.plot(x, y, color=COLOURS[0] if own else GREY, linewidth=1.6 if own else 0.8, zorder=3 if own else 2)
        place = next((i for i, p in enumerate(y) if p >= 80), len(y) - 4)
        axes.text(
            x[place], y[place], str(line.seeds), fontsize=6, ha="center", va="center", zorder=4,
            color=COLOURS[0] if own else GREY,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
    axes.axhline(80, color=INK, linewidth=0.5, linestyle=":")
    if bound is not None and unit.factor * bound < reach:
        axes.axvline(unit.factor * bound, color=INK, linewidth=0.6, linestyle="--")
        axes.text(unit.factor * bound, 102, "bound of equivalence", fontsize=5.5, color=GREY, ha="center", va="bottom")
    axes.set_xlim(0, reach)
    axes.set_ylim(0, 101)
    axes.set_xlabel(f"true difference between recipes, {unit.difference}")
    axes.set_ylabel("power (%), by training runs")
    axes.grid(axis="y")
    axes.tick_params(length=0, labelcolor=GREY)
    return made
