"""Learning curves: every run with its running mean where they are few, thin lines by recipe where they are many."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from vlm4vla.report.figures import COLOURS, GREY, RULE, Drawing, draw, layout, short
from vlm4vla.report.folder import Study, Training

CURVES = ("loss", "arm_loss", "gripper_loss", "grad_norm")
FEW = 7
"""More runs than colours get a panel per recipe, with the loss alone; more recipes than ``PANELS`` share one panel."""
PANELS = 24
POINTS = 50
"""Points of a curve among many."""
GAP = 0.18
"""Between panels, in units of a panel."""


def learning(study: Study) -> Drawing | None:
    """Training curves of all arms; none where no arm was trained."""
    keys = [k for k in CURVES if any(getattr(m, k) is not None for t in study.training for m in t.metrics)]
    if not keys:
        return None
    if len(study.training) <= FEW:
        note = "Thin: as logged, thick: running mean over 5% of the points."
        return draw("learning", "Learning curves per arm", lambda width: _few(study.training, keys, width), note)
    groups = _groups(study)
    where = "a panel per arm" if len(groups) > 1 else "all arms in one panel"
    return draw(
        "learning",
        f"Learning curves, {where}",
        lambda width: _many(groups, keys[0], width),
        f"Drawn: {keys[0].replace('_', ' ')} of {len(study.training)} runs, running means over 5% of the points.",
    )


def _groups(study: Study) -> dict[str, list[Training]]:
    """Training runs by the label of their arm, or all of them where arms are too many for a panel each."""
    groups: dict[str, list[Training]] = {}
    for run in study.training:
        name = run.arm.recipe or run.arm.name
        groups.setdefault(study.labels[name] if run.arm.recipe else run.arm.label, []).append(run)
    return groups if len(groups) <= PANELS else {"All training runs": list(study.training)}


def _many(groups: Mapping[str, Sequence[Training]], key: str, width: float) -> Figure:
    """Small panels with common axes: a run that went another way than its siblings is seen.

    All panels stand in one pair of axes, in units of a panel: twenty pairs would take twenty times as long.
    """
    columns = min(len(groups), 4 if width > 6 else 2)
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(width, (1.25 if len(groups) > 1 else 3.0) * rows + 0.3), layout=layout())
    axes = figure.subplots()
    curves = {label: [_thinned(run, key) for run in runs] for label, runs in groups.items()}
    steps, values = (np.concatenate([c[k] for own in curves.values() for c in own]) for k in (0, 1))
    finite = values[np.isfinite(values)]
    scale = np.log10 if finite.size and finite.min() > 0 else np.asarray
    low, high = (float(v) for v in (scale(finite).min(), scale(finite).max())) if finite.size else (0.0, 1.0)
    last = float(steps.max()) if steps.size else 1.0
    ticks = _ticks(low, high, scale is np.log10)
    for place, (label, own) in enumerate(curves.items()):
        right, down = (place % columns) * (1 + GAP), -(place // columns) * (1 + 2 * GAP)
        for tick, _ in ticks:
            axes.plot([right, right + 1], [down + tick, down + tick], color=RULE, linewidth=0.6)
        lines = [
            np.column_stack([right + step / last, down + (scale(mean) - low) / max(high - low, 1e-9)])
            for step, mean in own
        ]
        axes.add_collection(LineCollection(lines, colors=COLOURS[0], linewidths=0.8, alpha=0.6))
        axes.text(right, down + 1.06, short(label, 24), fontsize=8)
        for tick, told in ticks if place % columns == 0 else ():
            axes.text(right - 0.03, down + tick, told, fontsize=7, color=GREY, ha="right", va="center")
        if place + columns >= len(curves):
            axes.text(right + 1, down - 0.05, f"step {last:g}", fontsize=7, color=GREY, ha="right", va="top")
    axes.set_xlim(-0.12, columns * (1 + GAP) - GAP + 0.01)
    axes.set_ylim(-(rows - 1) * (1 + 2 * GAP) - 0.2, 1.25)
    axes.set_axis_off()
    return figure


def _ticks(low: float, high: float, log: bool) -> list[tuple[float, str]]:
    """Three values of the common axis: place within the panel, and text."""
    values = [low + share * (high - low) for share in (0.0, 0.5, 1.0)]
    return [(share, f"{10**v if log else v:.2g}") for share, v in zip((0.0, 0.5, 1.0), values, strict=True)]


def _thinned(run: Training, key: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    step, value = _points(run, key)
    every = max(1, len(step) // POINTS)
    return step[::every], running_mean(value)[::every]


def _points(run: Training, key: str) -> npt.NDArray[np.float64]:
    """Steps and values, (2, N)."""
    kept = [(m.step, getattr(m, key)) for m in run.metrics if getattr(m, key) is not None]
    return np.array(kept, dtype=np.float64).reshape(-1, 2).T


def _log(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _few(training: Sequence[Training], keys: Sequence[str], width: float) -> Figure:
    columns = 2 if width > 6 else 1
    lines = -(-len(keys) // columns)
    figure = Figure(figsize=(width, 1.9 * lines + 0.4), layout=layout())
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, key in zip(grid.flat, keys, strict=False):
        positive = True
        for i, run in enumerate(training):
            step, value = _points(run, key)
            if not len(value):
                continue
            positive = positive and bool(np.all(value[np.isfinite(value)] > 0))
            colour = COLOURS[i % len(COLOURS)]
            axes.plot(step, value, color=colour, linewidth=0.7, alpha=0.35)
            axes.plot(step, running_mean(value), color=colour, linewidth=1.6, label=short(run.arm.label, 34))
        if positive:
            _log(axes)
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
