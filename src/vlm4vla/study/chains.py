"""Chains of subtasks: where they begin, and comparisons that take initial states, not chains, as independent.

Chains that begin in one initial state share its luck; as independent episodes they would promise too much. What one
checkpoint reaches is in ``intervals.chains``, recipes are in ``retrained`` by the numbers of ``per_state``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from vlm4vla.records import EpisodeRow, Measure
from vlm4vla.types import Benchmark, EpisodeSpec, Split, refuse

Numbers = npt.NDArray[np.float64]
SMOOTHING_STATES = 2.0
"""Pseudo-states of the paired bootstrap: half without a difference, a quarter each with one subtask on either side.

Without them the interval shrinks to a point where nothing differs. With whole chains in place of one subtask it covers
97 to 100 % (simulation, as in tests/study)."""


def told(rows: Sequence[EpisodeRow], bench: Benchmark, split: Split) -> list[EpisodeRow]:
    """The rows, chains with the initial state and the number of subtasks that the benchmark tells of their start.

    Older rows do not hold them. Refuses those of another version of the benchmark.
    """
    lacking = {row.task for row in rows if row.completed is not None and row.initial_state is None}
    of: dict[tuple[str, int], dict[str, Any]] = {}
    for task in sorted(lacking):
        own = [row for row in rows if row.task == task]
        if own[0].benchmark != bench.id:
            raise refuse(
                f"The rows are of {own[0].benchmark}, and the benchmark here is {bench.id}",
                possible="the version, and the variant, that made them",
                todo="Choose that variant, or install that version of vlm4vla.",
            )
        starts = bench.episodes(split, task, 1 + max(row.episode for row in own))
        of |= {(task, start.index): of_start(bench, start) for start in starts}
    return [
        row if row.task not in lacking else row.model_copy(update=of.get((row.task, row.episode), {})) for row in rows
    ]


def of_start(bench: Benchmark, start: EpisodeSpec) -> dict[str, int]:
    """What a row of a chain holds of its start: ``subtasks`` and ``initial_state``."""
    found = bench.describe(start)  # type: ignore[attr-defined]  # one with chains has it: see Benchmark
    return {"subtasks": len(found["subtasks"]), "initial_state": int(found["initial_state"])}


def measure_of(rows: Sequence[EpisodeRow]) -> Measure:
    """What these rows are summed up to: subtasks solved in a row for chains, success for single tasks.

    Refuses a mixture, and chains of several tasks: a mean over them would be no quantity.
    """
    chained = {row.task for row in rows if row.completed is not None}
    if chained:
        refuse_mixture(sorted(chained), sorted({row.task for row in rows if row.completed is None}))
    return "completed" if chained else "success"


def refuse_mixture(chained: Sequence[str], single: Sequence[str]) -> None:
    """Refuses a table with chains that holds anything beside one task of them."""
    if len(chained) + len(single) > 1:
        raise refuse(
            f"Chains ({', '.join(chained)}) stand beside other tasks: {', '.join([*chained[1:], *single])}",
            possible="one task of chains, or single tasks: their numbers have different units, and no mean",
            todo="Make two studies of it; with the same --out, data and recipe they share every training run.",
        )


def per_state(values: npt.ArrayLike, states: npt.ArrayLike) -> Numbers:
    """(..., n) numbers of chains -> (..., S), one of each initial state, whose mean is the mean over the chains.

    States may hold unequal numbers of chains, so their means must not be averaged. These are centred pseudo-values of
    the jackknife that leaves out a state at a time: their variance over S is that of the mean over the chains when
    states are drawn anew. Where states hold equal numbers they are the states' means.
    """
    x = np.asarray(values, dtype=np.float64)
    _, cluster, size = np.unique(np.asarray(states), return_inverse=True, return_counts=True)
    members = np.zeros((x.shape[-1], len(size)))
    members[np.arange(x.shape[-1]), cluster] = 1
    mean = x.mean(axis=-1, keepdims=True)
    apart = (len(size) - 1) * (x @ members - size * mean) / (x.shape[-1] - size)
    found: Numbers = mean + apart - apart.mean(axis=-1, keepdims=True)
    return found


def paired_interval(
    difference: npt.NDArray[np.int64], states: npt.NDArray[np.int64], *, level: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Limits of the mean difference of paired chains (n,): initial states are drawn, not chains.

    The percentiles of the bootstrap, and never narrower than the jackknife's t interval: alone they cover 93 to 95 %.
    """
    _, cluster, size = np.unique(states, return_inverse=True, return_counts=True)
    count = len(size)
    sums = np.zeros((count + 3, 2))  # per state: its difference, its chains; then the pseudo-states
    np.add.at(sums[:count, 0], cluster, difference)
    sums[:count, 1], sums[count:, 1] = size, size.mean()
    sums[count:, 0] = np.array([-1, 0, 1]) * size.mean()
    chances = np.r_[np.ones(count), SMOOTHING_STATES * np.array([0.25, 0.5, 0.25])] / (count + SMOOTHING_STATES)
    drawn = np.random.default_rng(seed).multinomial(count, chances, size=resamples) @ sums
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [(1 - level) / 2, (1 + level) / 2])
    mean, error = float(difference.mean()), float(per_state(difference, states).std(ddof=1)) / count**0.5
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
    return min(float(low), mean - half), max(float(high), mean + half)


def sign_flips(difference: npt.NDArray[np.int64], states: npt.NDArray[np.int64]) -> float:
    """Two-sided p-value of "the two checkpoints could change places in every initial state", exact.

    The distribution of the sum over states under independent changes of sign, by convolution: the differences are whole
    numbers, so nothing is drawn.
    """
    _, cluster = np.unique(states, return_inverse=True)
    of_state = np.zeros(cluster.max() + 1, dtype=np.int64)
    np.add.at(of_state, cluster, difference)
    reach = int(np.abs(of_state).sum())
    chance = np.zeros(2 * reach + 1)
    chance[reach] = 1.0  # the index is the sum, from -reach on
    for d in np.abs(of_state[of_state != 0]):  # what rolls over an end is zero: it cannot be reached yet
        chance = (np.roll(chance, d) + np.roll(chance, -d)) / 2
    sums = np.arange(-reach, reach + 1)
    return min(float(chance[np.abs(sums) >= abs(int(of_state.sum()))].sum()), 1.0)
