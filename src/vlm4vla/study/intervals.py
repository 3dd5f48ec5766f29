"""One checkpoint, or a pair of them: intervals and tests that say nothing about retraining (estimands E1 and E2).

E1: this checkpoint on this list of starts, a census. E2: this checkpoint on starts like these. Paired differences with
a bootstrap interval are in ``compare``; recipes (E3) are in ``retrained``.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from vlm4vla.study.chains import per_state
from vlm4vla.types import refuse

Numbers = npt.NDArray[np.float64]
RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A value with its interval. ``estimand`` says what it is about, ``method`` how it was made."""

    estimand: Literal["E1", "E2", "E3"]
    value: float
    low: float
    high: float
    level: float
    method: str


def census(reruns: npt.ArrayLike) -> Interval:
    """E1: the rate on the whole list of starts. ``reruns``: (runs, starts) outcomes of the same evaluation.

    Nothing is sampled, so there is no interval: ``low`` and ``high`` are the lowest and highest of the reruns' rates,
    and their ``level`` is 1, since all reruns lie between them.
    """
    outcomes = np.asarray(reruns, dtype=np.bool_)
    if outcomes.ndim != 2 or outcomes.size == 0:
        raise refuse(
            f"A census needs outcomes as (reruns, starts), not an array of shape {outcomes.shape}",
            possible="at least one rerun of at least one start",
            todo="Give one row of outcomes per rerun.",
        )
    rates = outcomes.mean(axis=1)
    method = f"census of {outcomes.shape[1]} starts, " + (
        "run once" if len(rates) == 1 else f"lowest and highest of {len(rates)} reruns"
    )
    return Interval("E1", float(rates.mean()), float(rates.min()), float(rates.max()), 1.0, method)


def wilson(successes: int, episodes: int, level: float = 0.95) -> Interval:
    """E2 of one task: Wilson's score interval, close to nominal on average over rates."""
    return _proportion(successes, episodes, level, "wilson", "Wilson")


def clopper_pearson(successes: int, episodes: int, level: float = 0.95) -> Interval:
    """E2 of one task: Clopper and Pearson's exact interval, never below its level, wider than Wilson's."""
    return _proportion(successes, episodes, level, "beta", "Clopper-Pearson (exact)")


def _proportion(successes: int, episodes: int, level: float, key: str, name: str) -> Interval:
    if not 0 <= successes <= episodes or episodes == 0:
        raise refuse(
            f"{successes} successes of {episodes} episodes are no proportion",
            possible="0 <= successes <= episodes, at least one episode",
            todo="Count the rows again.",
        )
    low, high = proportion_confint(successes, episodes, alpha=1 - level, method=key)
    rate = successes / episodes
    return Interval("E2", rate, max(min(float(low), rate), 0.0), min(max(float(high), rate), 1.0), level, name)


def mcnemar(only_a: npt.ArrayLike, only_b: npt.ArrayLike, mid: bool = False) -> Numbers:
    """E2: two-sided p-values of McNemar's test from the two kinds of discordant pairs, arrays of any equal shape.

    Exact: never rejects a true null too often. ``mid``: half of the observed outcome's chance is left out, which takes
    back most of the conservatism of the discreteness (Fagerland, Lydersen and Laake 2013) without a guarantee. For two
    fixed checkpoints on the same starts only: over training seeds it rejects true nulls far too often.
    """
    a, b = np.asarray(only_a), np.asarray(only_b)
    fewer, total = np.minimum(a, b), a + b
    two_sided = 2 * stats.binom.cdf(fewer, total, 0.5)
    found: Numbers = np.minimum(two_sided - stats.binom.pmf(fewer, total, 0.5) if mid else two_sided, 1.0)
    return found


def chains(
    lengths: npt.ArrayLike,
    states: npt.ArrayLike,
    longest: int = 5,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """E2 of chains of subtasks: ``average`` length, and the rates of ``1`` to ``longest`` solved in a row.

    ``lengths``, ``states``: (episodes,) subtasks solved in a row, and which initial state the chain began in. Chains
    that share an initial state share its luck, so states are resampled, not chains. Near the ends of the scale the
    percentiles stop too early on the far side (they cover 90 to 92 % at an average of 0.2 to 0.5 of 5), so no
    interval is narrower than Wilson's with the effective number of chains that the states' spread leaves, and t; nor,
    of a rate, than Wilson's over independent chains.
    """
    length, state = np.asarray(lengths, dtype=np.int64), np.asarray(states)
    if length.ndim != 1 or length.shape != state.shape or len(np.unique(state)) < 2:
        raise refuse(
            f"{length.size} chains with {len(np.unique(state))} initial states cannot be resampled by state",
            possible="one length and one state per chain, at least two different states",
            todo="Give the chains of the whole evaluation.",
        )
    if length.min() < 0 or length.max() > longest:
        raise refuse(
            f"Chain lengths go from {length.min()} to {length.max()}",
            possible=f"0 to {longest}",
            todo="Give the number of subtasks solved in a row.",
        )
    _, cluster = np.unique(state, return_inverse=True)
    count = int(cluster.max()) + 1
    in_a_row = (length[:, None] >= np.arange(1, longest + 1)).astype(np.float64)
    sums = np.zeros((count, longest + 2))  # per state: chains, successes of 1..longest, total length
    np.add.at(sums, cluster, np.column_stack([np.ones(len(length)), in_a_row, length]))
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples) @ sums
    tail = (1 - level) / 2
    ends = np.quantile(drawn[:, 1:] / drawn[:, :1], [tail, 1 - tail], axis=0)
    method = (
        f"percentile bootstrap over {count} initial states, {resamples} resamples, seed {seed}, at least Wilson's with "
        "the effective number of chains"
    )

    def interval(values: Numbers, unit: int, low: float, high: float) -> Interval:
        mean = float(values.mean())
        a, b = effective_wilson(mean, per_state(values, state), level)
        return Interval("E2", unit * mean, unit * min(low, a, mean), unit * max(high, b, mean), level, method)

    average = interval(length / longest, longest, float(ends[0, -1]) / longest, float(ends[1, -1]) / longest)
    found = {"average": average}
    for k in range(longest):
        naive = wilson(int(in_a_row[:, k].sum()), len(length), level)
        low, high = min(float(ends[0, k]), naive.low), max(float(ends[1, k]), naive.high)
        found[str(k + 1)] = interval(in_a_row[:, k], 1, low, high)
    return found


def effective_wilson(mean: float, of_states: Numbers, level: float) -> tuple[float, float]:
    """Wilson's interval of a mean between 0 and 1 whose variance is that of ``of_states`` (S,): with as many effective
    episodes as have that variance, and t (as surveys use it). Where all states are alike each counts as one episode."""
    count, variance = len(of_states), float(of_states.var(ddof=1)) / len(of_states)
    if variance == 0:
        low, high = proportion_confint(mean * count, count, alpha=1 - level, method="wilson")
        return max(float(low), 0.0), min(float(high), 1.0)
    t = float(stats.t.ppf((1 + level) / 2, count - 1))
    low, high = score(np.asarray(mean), np.asarray(variance / (mean * (1 - mean))), t)
    return float(low), float(high)


def score(rate: Numbers, one_over_n: Numbers, t: float | Numbers) -> tuple[Numbers, Numbers]:
    """Limits of Wilson's interval for an effective number of episodes n and a quantile t."""
    squared = t * t * one_over_n
    centre = (rate + squared / 2) / (1 + squared)
    half = np.sqrt(squared * rate * (1 - rate) + squared**2 / 4) / (1 + squared)
    return centre - half, centre + half
