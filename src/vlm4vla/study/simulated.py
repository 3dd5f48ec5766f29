"""Studies made up from a known truth, to try methods on (`study simulate`).

logit of the chance of success = arm + task + retrain + retrain x task + start. Retrain effects belong to one training
run, starts are shared by all arms and seeds; both are normal. Tasks are fixed: normal quantiles with SD ``TASK_SD``.
The arm's logit and its retrain SD are solved for by quadrature, so that the rate over retraining and starts, and the
SD over retraining of a run's mean over tasks (starts averaged out), are what was asked for in points.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from vlm4vla.study.spread import Numbers
from vlm4vla.types import refuse

TASK_SD = 1.0  # on the logit scale, as the others
START_SD = 1.0
TASK_SHARE = 0.5
"""SD of retrain x task as a share of the SD of retrain."""

_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(41)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_LOGITS = np.linspace(-40, 40, 8001)


@dataclass(frozen=True)
class Arm:
    """A recipe on the logit scale."""

    logit: float
    retrain: float


@cache
def _over_starts() -> tuple[Numbers, Numbers]:
    """Per logit of ``_LOGITS``: rate over starts, and p (1 - p) averaged over starts."""
    p = special.expit(_LOGITS[:, None] + START_SD * _POINTS)
    return p @ _WEIGHTS, (p * (1 - p)) @ _WEIGHTS


def over_starts(logit: Numbers) -> Numbers:
    """The chance of success averaged over starts."""
    found: Numbers = np.interp(logit, _LOGITS, _over_starts()[0])
    return found


def task_logits(tasks: int) -> Numbers:
    found: Numbers = TASK_SD * stats.norm.ppf((np.arange(tasks) + 0.5) / tasks)
    return found


def moments(arm: Arm, tasks: int) -> tuple[float, float]:
    """Rate, and SD over retraining of a run's mean over tasks."""
    logit = arm.logit + task_logits(tasks)[:, None, None]
    p = over_starts(logit + arm.retrain * (_POINTS[:, None] + TASK_SHARE * _POINTS))  # task, retrain, retrain x task
    mean = p @ _WEIGHTS
    within = (p**2) @ _WEIGHTS - mean**2
    together = mean.mean(axis=0)
    rate = float(together @ _WEIGHTS)
    variance = float((together**2) @ _WEIGHTS) - rate**2 + float((within @ _WEIGHTS).sum()) / tasks**2
    return rate, float(np.sqrt(max(variance, 0.0)))


@cache
def calibrate(rate: float, retrain_sd: float, tasks: int) -> Arm:
    """The arm whose rate and retrain SD are these (0.05, 0.09: 5 % and 9 points). Refuses what no arm can have."""

    def logit(retrain: float) -> float:
        return float(optimize.brentq(lambda x: moments(Arm(x, retrain), tasks)[0] - rate, -30, 30))

    if retrain_sd == 0:
        return Arm(logit(0.0), 0.0)
    top = 6.0
    possible = moments(Arm(logit(top), top), tasks)[1]
    if retrain_sd >= possible:
        raise refuse(
            f"A recipe of rate {rate} cannot vary by {retrain_sd} over retraining",
            possible=f"a retrain SD below {possible:.3f} at this rate",
            todo="Lower the SD.",
        )
    retrain = float(optimize.brentq(lambda s: moments(Arm(logit(s), s), tasks)[1] - retrain_sd, 1e-4, top))
    return Arm(logit(retrain), retrain)


def episode_variance(arm: Arm, tasks: int, starts: int) -> float:
    """Variance of a run's rate over the episodes, given the run and the starts."""
    spread = arm.retrain * np.sqrt(1 + TASK_SHARE**2)
    logit = arm.logit + task_logits(tasks)[:, None] + spread * _POINTS
    left = np.interp(logit, _LOGITS, _over_starts()[1]) @ _WEIGHTS
    return float(left.mean()) / (tasks * starts)


def draw(
    generator: np.random.Generator, studies: int, arms: Sequence[Arm], seeds: int, tasks: int, starts: int
) -> tuple[npt.NDArray[np.bool_], Numbers]:
    """Outcomes (studies, arms, seeds, tasks, starts), and each run's true rates on the tasks (..., tasks)."""
    logit = np.array([arm.logit for arm in arms])[:, None, None] + task_logits(tasks)
    sd = np.array([arm.retrain for arm in arms])[:, None, None]
    shape = (studies, len(arms), seeds)
    run = logit + sd * generator.standard_normal((*shape, 1))
    run = run + sd * TASK_SHARE * generator.standard_normal((*shape, tasks))
    luck = START_SD * generator.standard_normal((studies, 1, 1, tasks, starts), dtype=np.float32)
    # u < 1 / (1 + exp(-x)), in place: nearly all the time of a simulation goes by here.
    x = run.astype(np.float32)[..., None] + luck
    np.negative(x, out=x)
    np.exp(x, out=x)
    x += 1
    x *= generator.random(x.shape, dtype=np.float32)
    return x < 1, over_starts(run)
