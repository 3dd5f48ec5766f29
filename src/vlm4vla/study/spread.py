"""How much arms' success rates vary, and from what: training seeds, starts, and the chance left in single episodes.

All functions take outcomes as one array per task, (..., arms, seeds, starts): the leading dimensions are independent
studies, so a simulation runs the very code that a study runs. Tasks are fixed strata of equal weight; seeds belong to
their arm, starts are shared by all arms and seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from vlm4vla.types import refuse

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """Means and variances of a study, in rate units; ``...`` are independent studies.

    ``task_means`` (..., K, S, T): rate of each checkpoint on each task. ``starts`` (..., K, K): covariance of two arms'
    means as their starts show it. ``noise`` (..., K): the part of an arm's variance that seeds and starts both show,
    since it belongs to single episodes. ``start_counts`` (T,). ``episodes``: of an arm, all its seeds together.
    """

    task_means: Numbers
    starts: Numbers
    noise: Numbers
    start_counts: tuple[int, ...]
    episodes: int

    @property
    def arms(self) -> int:
        return int(self.task_means.shape[-3])

    @property
    def seeds(self) -> int:
        return int(self.task_means.shape[-2])

    @property
    def starts_df(self) -> int:
        return sum(n - 1 for n in self.start_counts)

    @property
    def seed_means(self) -> Numbers:
        """(..., K, S): mean over tasks of each checkpoint."""
        found: Numbers = self.task_means.mean(axis=-1)
        return found

    @property
    def means(self) -> Numbers:
        """(..., K): mean over tasks and seeds of each arm."""
        found: Numbers = self.task_means.mean(axis=(-2, -1))
        return found

    @property
    def retrain(self) -> Numbers:
        """(..., K): variance of an arm's mean as its seeds show it; the noise of its episodes is in it."""
        found: Numbers = self.seed_means.var(axis=-1, ddof=1) / self.seeds
        return found


def spread(outcomes: Sequence[npt.NDArray[np.bool_] | npt.NDArray[np.float64]], episodes: int | None = None) -> Spread:
    """Sums of squares of a study. ``outcomes``: per task (..., arms, seeds, starts), or numbers between 0 and 1.

    ``episodes``: of one run, where a start stands for several (the initial state of chains); null: one each.
    Refuses one seed (nothing is known about retraining) and one start of a task (nothing is known about its starts).
    """
    *_, arms, seeds, _ = outcomes[0].shape
    if seeds < 2:
        raise refuse(
            "With one training run per arm nothing is known about retraining",
            possible="two runs per arm (a pilot), three or more for a claim about a recipe",
            todo="Train further seeds, or speak of these checkpoints only (estimand E2).",
        )
    counts = tuple(int(y.shape[-1]) for y in outcomes)
    if min(counts) < 2:
        raise refuse(
            "A task has one start only, so nothing is known about its other starts",
            possible="two starts per task or more",
            todo="Evaluate on more starts.",
        )
    batch = outcomes[0].shape[:-3]
    tasks = len(outcomes)
    means = np.empty((*batch, arms, seeds, tasks))
    starts, noise = np.zeros((*batch, arms, arms)), np.zeros((*batch, arms))
    for k, (y, n) in enumerate(zip(outcomes, counts, strict=True)):
        rate = y.sum(axis=-1, dtype=np.float64) / n
        means[..., k] = rate
        of_start = y.sum(axis=-2, dtype=np.float64) / seeds
        centred = of_start - of_start.mean(axis=-1, keepdims=True)
        starts += centred @ centred.swapaxes(-1, -2) / ((n - 1) * n * tasks**2)
        if y.dtype == np.bool_:  # a checkpoint's sum of squares about its own rate is n p (1 - p)
            squares = n * (rate * (1 - rate)).sum(axis=-1)
        else:
            squares = ((y - rate[..., None]) ** 2).sum(axis=(-2, -1))
        left = squares - seeds * (centred**2).sum(axis=-1)
        noise += left / ((seeds - 1) * (n - 1) * n * seeds * tasks**2)
    return Spread(means, starts, noise, counts, seeds * (episodes or sum(counts)))


def brown_forsythe(seed_means: Numbers, seed_floor: float) -> Numbers:
    """p-values of the test that all arms vary alike: Levene's test about medians. (..., K, S) -> (...).

    ``seed_floor``: deviations smaller than this are rounding. With one arm, or two seeds, nothing can be said: 1.
    """
    arms, seeds = seed_means.shape[-2:]
    if arms < 2 or seeds < 3:
        return np.ones(seed_means.shape[:-2])
    deviation = np.abs(seed_means - np.median(seed_means, axis=-1, keepdims=True))
    of_arm = deviation.mean(axis=-1, keepdims=True)
    between = seeds * ((of_arm - of_arm.mean(axis=-2, keepdims=True)) ** 2).sum(axis=(-2, -1)) / (arms - 1)
    within = ((deviation - of_arm) ** 2).sum(axis=(-2, -1)) / (arms * (seeds - 1))
    p: Numbers = stats.f.sf(between / np.maximum(within, seed_floor**2), arms - 1, arms * (seeds - 1))
    return p
