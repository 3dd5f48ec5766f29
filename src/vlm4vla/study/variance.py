"""Where the spread of success rates comes from: retraining, retraining by task, tasks, starts, single episodes.

Analysis of variance by the method of moments: every mean square is a sum of components, the smaller ones are known
almost exactly and are taken off. Limits are those of the mean square's chi-square distribution, less the same.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from vlm4vla.study.spread import Spread, spread
from vlm4vla.study.successes import Successes


@dataclass(frozen=True)
class Component:
    """One source as a standard deviation in rate units (0.04 = 4 points), with its interval. ``share`` of the sum of
    the sources that add up to the variance of one episode; null for ``retrain``, which is made of two of them."""

    source: str
    sd: float
    low: float
    high: float
    level: float
    df: int
    share: float | None


def split(study: Successes, *, level: float = 0.95) -> list[Component]:
    """Components pooled over the study's arms.

    ``retrain``: SD over retraining of a recipe's mean over exactly these tasks, the figure that ``study power`` takes.
    ``retrain, all tasks alike`` and ``retrain x task`` are what it is made of; ``task``: the spread of the tasks' rates
    within an arm; ``start``: of starts within a task, for the arm's checkpoints on average; ``episode``: the rest.
    """
    s = spread(study.outcomes, study.episodes)
    level_and_df = _MeanSquares(s)
    found = level_and_df.components(level)
    total = sum(sd**2 for name, sd, *_ in found if name != "retrain")
    return [
        Component(name, sd, low, high, level, df, None if name == "retrain" or total == 0 else sd**2 / total)
        for name, sd, low, high, df in found
    ]


class _MeanSquares:
    """Mean squares per arm, averaged over arms; starts per task by their harmonic mean."""

    def __init__(self, s: Spread) -> None:
        arms, seeds, tasks = s.task_means.shape
        self.arms, self.seeds, self.tasks, self.starts_df = arms, seeds, tasks, s.starts_df
        self.starts = tasks / sum(1 / n for n in s.start_counts)
        self.episode = float(s.noise.mean()) * seeds * tasks * self.starts  # variance of one episode, given all else
        self.seed = float(s.seed_means.var(axis=-1, ddof=1).mean())
        centred = s.task_means - s.task_means.mean(axis=-1, keepdims=True) - s.task_means.mean(axis=-2, keepdims=True)
        centred += s.task_means.mean(axis=(-2, -1), keepdims=True)
        self.seed_task = float((centred**2).sum() / (arms * (seeds - 1) * max(tasks - 1, 1)))
        self.task = float(s.task_means.mean(axis=-2).var(axis=-1, ddof=1).mean()) if tasks > 1 else 0.0
        self.start = float(np.diagonal(s.starts).mean()) * tasks * self.starts

    def components(self, level: float) -> list[tuple[str, float, float, float, int]]:
        df = self.arms * (self.seeds - 1)
        of_cell = self.episode / self.starts  # of a checkpoint's rate on a task
        seed_task = max(self.seed_task - of_cell, 0.0)
        start = max(self.start - self.episode / self.seeds, 0.0)
        found = [("retrain", self.seed, of_cell / self.tasks, df)]
        if self.tasks > 1:
            found += [
                ("retrain, all tasks alike", self.seed, (seed_task + of_cell) / self.tasks, df),
                ("retrain x task", self.seed_task, of_cell, df * (self.tasks - 1)),
                ("task", self.task, (seed_task + of_cell) / self.seeds + start / self.starts, self.tasks - 1),
            ]
        found.append(("start", self.start, self.episode / self.seeds, self.starts_df))
        found.append(("episode", self.episode, 0.0, df * self.starts_df))
        return [(name, *_limits(square, less, dof, level), dof) for name, square, less, dof in found]


def _limits(square: float, less: float, df: int, level: float) -> tuple[float, float, float]:
    """SD of a component and its limits: the mean square's, less the other components' part, at least 0."""
    low, high = (square * df / stats.chi2.ppf(q, df) for q in ((1 + level) / 2, (1 - level) / 2))
    sd, a, b = (float(np.sqrt(max(v - less, 0.0))) for v in (square, low, high))
    return sd, a, b
