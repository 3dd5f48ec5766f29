"""How much success depends on the learning rate, and whether the order of the arms does."""

from matplotlib.figure import Figure

from vlm4vla.report.folder import Tuning
from vlm4vla.report.paper.lines import Look, Series, panels
from vlm4vla.report.paper.source import Missing, Plot, Source

NAME, TITLE = "rates", "Sensitivity to the learning rate"


def make(source: Source) -> Plot | Missing:
    tuning = source.study.file.tuning
    if tuning is None:
        return Missing(NAME, TITLE, "not measured: every arm was trained with the rate of its recipe alone")
    flips = [f"{source.label(f.a)} and {source.label(f.b)}" for f in tuning.flips]
    some = f"{'; '.join(flips[:4])}{f' and {len(flips) - 4} further pairs' if len(flips) > 4 else ''}"
    tasks = len(source.study.file.tasks)
    caption = (
        f"Score on dev starts at each of the same {len(tuning.factors)} multiples of the arm's learning rate: one "
        f"training run each (seed {tuning.seed}), n = {tuning.episodes} episodes a task, {tasks} tasks. One training "
        f"run shows no spread, so there are no intervals; estimand E1, these checkpoints on these starts. Rings: the "
        f"rate that trained the seeds reported. "
        + (
            f"The order depends on the rate for {some}: a ranking of these at one rate alone is no finding."
            if flips
            else "No two arms change their order within the grid."
        )
    )
    plain = tuple(
        {
            "arm": arm.arm, "label": source.label(arm.arm), "factor": factor, "rate": rate, "score": score,
            "chosen": factor == arm.chosen, "seed": tuning.seed, "episodes_per_task": tuning.episodes,
            "order_depends_on_rate": any(arm.arm in (f.a, f.b) for f in tuning.flips),
        }
        for arm in tuning.arms for factor, rate, score in zip(tuning.factors, arm.rates, arm.scores, strict=True)
    )  # fmt: skip
    return Plot(NAME, TITLE, caption, lambda: _draw(source, tuning), plain)


def _draw(source: Source, tuning: Tuning) -> Figure:
    chained, scale = source.study.measure == "completed", source.unit.factor
    series = [
        Series(
            source.label(arm.arm), tuning.factors, [scale * score for score in arm.scores],
            [None] * len(arm.scores), [None] * len(arm.scores), (), [tuning.factors.index(arm.chosen)],
        )
        for arm in tuning.arms
    ]  # fmt: skip
    look = Look(
        "multiple of the recipe's learning rate",
        "dev score, subtasks in a row" if chained else "success on dev starts (%)",
        (tuning.factors, [f"{factor:g}" for factor in tuning.factors]),
        max(scale * score for arm in tuning.arms for score in arm.scores) if chained else 100.0,
        log=True,
    )
    return panels([("The order depends on the rate" if tuning.flips else "", series)], look)
