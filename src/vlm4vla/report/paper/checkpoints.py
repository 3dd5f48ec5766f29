"""Success against checkpoint, or against executed horizon, as tried before the evaluation."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from vlm4vla.report.paper.lines import Look, Series, panels
from vlm4vla.report.paper.record import Tried
from vlm4vla.report.paper.source import OLDER, Missing, Plot, Source, count, standing

NAME, TITLE = "checkpoints", "Success along training and by executed horizon"
EVAL = (
    "Candidates were tried on the test starts themselves: the score of the best is optimistic, and no interval "
    "accounts for the choice."
)


def make(source: Source) -> Plot | Missing:
    if source.appendix is None:
        return Missing(NAME, TITLE, OLDER)
    tried = source.appendix.tried
    if len({(t.step, t.execute) for t in tried}) < 2:
        return Missing(NAME, TITLE, "checkpoint and horizon were declared beforehand; nothing was tried")
    first = tried[0]
    over_steps = len({t.step for t in tried}) > 1
    what = "mean number of subtasks in a row" if first.chains else "mean success over tasks"
    ringed = "that runs chose" if first.on == "dev" else "that runs chose, and report"
    parts = [
        f"Score ({what}) of each {'checkpoint' if over_steps else 'executed horizon'} on {first.on} starts: "
        f"n = {first.episodes} episodes per arm and candidate, {count(len(first.scores), 'training run')}.",
        standing((t.level, t.method, t.estimand) for t in tried if t.low is not None),
        *(f"{t.method.capitalize()}." for t in tried[:1] if t.low is None),
        "Thin lines: single training runs." if len(first.scores) > 1 else "",
        f"Rings: candidates {ringed}. " + ("The rates reported come from other starts." if first.on == "dev" else EVAL),
    ]
    return Plot(
        NAME,
        TITLE,
        " ".join(part for part in parts if part),
        lambda: _draw(source, tried, over_steps),
        tuple(
            {
                "arm": t.arm, "run": run, "on": t.on, "step": t.step, "execute": t.execute, "score": score,
                "chosen": chosen, "mean": t.mean, "low": t.low, "high": t.high, "level": t.level,
                "estimand": t.estimand, "method": t.method, "episodes": t.episodes,
            }
            for t in tried for run, score, chosen in zip(t.runs, t.scores, t.chosen, strict=True)
        ),
    )  # fmt: skip


def _draw(source: Source, tried: Sequence[Tried], over_steps: bool) -> Figure:
    scale = 1.0 if tried[0].chains else 100.0

    def place(t: Tried) -> int:
        return t.step if over_steps else t.execute

    def other(t: Tried) -> int:
        return t.execute if over_steps else t.step

    groups = []
    for value in dict.fromkeys(other(t) for t in tried):
        series = []
        for recipe in source.recipes:
            own = sorted((t for t in tried if t.arm == recipe.name and other(t) == value), key=place)
            if own:
                series.append(_series(recipe.label, own, [place(t) for t in own], scale))
        title = f"execute {value}" if over_steps else ""
        groups.append((title if len({other(t) for t in tried}) > 1 else "", series))
    ticks = sorted({place(t) for t in tried})
    shown = ticks if len(ticks) <= 8 else ticks[:: -(-len(ticks) // 8)]
    top = max(scale * v for t in tried for v in (*t.scores, t.high or 0.0)) if tried[0].chains else 100.0
    look = Look(
        "training steps" if over_steps else "executed steps of a chunk",
        f"{tried[0].on} score, subtasks in a row" if tried[0].chains else f"success on {tried[0].on} starts (%)",
        (shown, [_thousands(v) for v in shown]),
        top or 1.0,
    )
    return panels(groups, look)


def _series(label: str, own: Sequence[Tried], x: Sequence[int], scale: float) -> Series:
    def scaled(value: float | None) -> float | None:
        return None if value is None else scale * value

    runs = [[scale * t.scores[k] for t in own] for k in range(len(own[0].scores))]
    return Series(
        label, x, [scale * t.mean for t in own], [scaled(t.low) for t in own], [scaled(t.high) for t in own],
        runs if len(runs) > 1 else (), [i for i, t in enumerate(own) if any(t.chosen)],
    )  # fmt: skip


def _thousands(steps: int) -> str:
    return f"{steps / 1000:g}k" if steps >= 10_000 else str(steps)
