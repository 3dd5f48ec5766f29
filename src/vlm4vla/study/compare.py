"""From episode rows to estimates and comparisons of fixed checkpoints (estimand E2); the mathematics is statsmodels'.

A table row is one checkpoint: rows of two training runs are never mixed here. A test over (task, start, training seed)
that treats episodes as independent rejects a true null far too often under retraining noise: none is offered here.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from vlm4vla.records import Comparison, EpisodeRow, Estimate
from vlm4vla.report import sentences
from vlm4vla.study import intervals
from vlm4vla.study.chains import SMOOTHING_STATES, measure_of, paired_interval, sign_flips
from vlm4vla.study.multiplicity import benjamini_hochberg, holm
from vlm4vla.study.successes import Start, by_start, chain_lengths, common_starts
from vlm4vla.types import refuse

RESAMPLES = 10_000
SMOOTHING_PAIRS = 2.0
"""Pseudo-pairs of the bootstrap, half a pair per cell of the 2x2 table (Agresti and Min 2005), shared out over tasks.

Without them the interval shrinks to a point where nothing or everything differs: with rates near 0 or 1 the plain
percentile interval covered 42 to 89 % at 10 pairs per task, this one 94 to 98 % (simulation, tests/study)."""


def estimates(rows: Sequence[EpisodeRow], level: float = 0.95) -> list[Estimate]:
    """Success rates with Wilson intervals per (arm, control, benchmark, task), and over all tasks (``task`` null).

    Chains of subtasks have the average number solved in a row instead, then the rates of 1, 2, ... in a row, all with
    intervals over their initial states. The order is that of first appearance in ``rows``; the mean comes after its
    tasks. Tasks are fixed strata of equal weight. Refuses: no rows, an episode twice, several runs in one table row,
    arms with different tasks, chains beside other tasks.
    """
    if not rows:
        raise refuse("There are no episode rows to estimate from", todo="Run the evaluation first.")
    out: list[Estimate] = []
    tasks_of: dict[str, set[str]] = {}
    for row in rows:
        if row.control is None:
            tasks_of.setdefault(row.benchmark, set()).add(row.task)
    order = {key: i for i, key in enumerate(dict.fromkeys((r.arm, r.control, r.benchmark) for r in rows))}
    table = sorted(rows, key=lambda r: order[(r.arm, r.control, r.benchmark)])
    for (arm, control, benchmark), group in groupby(table, key=lambda r: (r.arm, r.control, r.benchmark)):
        name = sentences.row_name(arm, control)
        starts = by_start(list(group), name)
        tasks = list(dict.fromkeys(task for task, _ in starts))
        missing = tasks_of.get(benchmark, set()) - set(tasks)
        if missing:
            raise refuse(
                f"{name!r} has no rows of {', '.join(sorted(missing))}, which other rows of {benchmark} have",
                possible="the same tasks in every table row, since a mean over other tasks is another quantity",
                todo="Let the evaluation of this arm finish, or leave the task out of the study.",
            )
        if measure_of(list(starts.values())) == "completed":
            out += _chain_estimates(list(starts.values()), level)
            continue
        outcomes = {t: np.array([r.success for (task, _), r in starts.items() if task == t]) for t in tasks}
        out += [_estimate(arm, control, benchmark, t, {t: outcomes[t]}, level) for t in tasks]
        out.append(_estimate(arm, control, benchmark, None, outcomes, level))
    return out


def compare(
    rows_a: Sequence[EpisodeRow],
    rows_b: Sequence[EpisodeRow],
    a_name: str,
    b_name: str,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """``a`` minus ``b``, paired on (task, episode): exact McNemar test, bootstrap interval of the mean over tasks.

    Chains are compared by their subtasks solved in a row; their initial states are resampled, and tested.
    Both sides must be one table row each, of the same benchmark version, with the same seed per (task, episode) and
    the same starts. A policy against its own control (same run) is paired on the starts both have, since controls
    may be run on fewer episodes.
    Estimand E2: these two checkpoints on starts like these.
    """
    a, b = by_start(rows_a, a_name), by_start(rows_b, b_name)
    pairs = common_starts(a, b, a_name, b_name)
    if measure_of([table[k] for table in (a, b) for k in pairs]) == "completed":
        return _compare_chains(a, b, pairs, a_name, b_name, level, resamples, seed)
    tasks = list(dict.fromkeys(task for task, _ in pairs))
    outcome_a = np.array([a[k].success for k in pairs])
    outcome_b = np.array([b[k].success for k in pairs])
    only_a, only_b = int(np.sum(outcome_a & ~outcome_b)), int(np.sum(outcome_b & ~outcome_a))
    difference = outcome_a.astype(np.int64) - outcome_b.astype(np.int64)
    of_task = np.array([tasks.index(task) for task, _ in pairs])
    counts = np.array([[np.sum(difference[of_task == k] == v) for v in (-1, 0, 1)] for k in range(len(tasks))])
    low, high = bootstrap_interval(counts, level=level, resamples=resamples, seed=seed)
    return Comparison(
        a=a_name,
        b=b_name,
        benchmark=rows_a[0].benchmark,
        pairs=len(pairs),
        only_a=only_a,
        only_b=only_b,
        difference=float(np.mean((counts[:, 2] - counts[:, 0]) / counts.sum(axis=1))),
        low=low,
        high=high,
        level=level,
        interval_method=f"paired percentile bootstrap within tasks, {resamples} resamples, seed {seed}, "
        f"{SMOOTHING_PAIRS:g} pseudo-pairs",
        p_value=float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue),
        p_method="exact McNemar",
        estimand="E2",
    )


def _compare_chains(
    a: Mapping[Start, EpisodeRow],
    b: Mapping[Start, EpisodeRow],
    pairs: Sequence[Start],
    a_name: str,
    b_name: str,
    level: float,
    resamples: int,
    seed: int,
) -> Comparison:
    lengths_a, states, longest = chain_lengths([a[k] for k in pairs], a_name)
    lengths_b, _, _ = chain_lengths([b[k] for k in pairs], b_name)
    difference = lengths_a - lengths_b
    low, high = paired_interval(difference, states, level=level, resamples=resamples, seed=seed)
    count = len(np.unique(states))
    return Comparison(
        a=a_name,
        b=b_name,
        benchmark=a[pairs[0]].benchmark,
        pairs=len(pairs),
        only_a=int(np.sum(difference > 0)),
        only_b=int(np.sum(difference < 0)),
        difference=float(difference.mean()),
        low=low,
        high=high,
        level=level,
        interval_method=f"paired percentile bootstrap over {count} initial states, {resamples} resamples, seed {seed}, "
        f"{SMOOTHING_STATES:g} pseudo-states, at least the jackknife's t",
        p_value=sign_flips(difference, states),
        p_method="exact test by changes of sign over initial states",
        estimand="E2",
        measure="completed",
        longest=longest,
    )


def bootstrap_interval(
    counts: npt.NDArray[np.int64], *, level: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Percentile interval of the mean over tasks of a paired difference.

    ``counts`` (K, 3): per task the pairs with difference -1, 0, +1. Resampling n pairs with replacement is a
    multinomial draw of these counts, so no pair is ever touched and 10,000 resamples take milliseconds.
    """
    generator = np.random.default_rng(seed)
    size = counts.sum(axis=1)
    cells = SMOOTHING_PAIRS / len(counts) * np.array([0.25, 0.5, 0.25])  # (0,1); (0,0) and (1,1); (1,0)
    smoothed = (counts + cells) / (size + SMOOTHING_PAIRS / len(counts))[:, None]
    mean = np.zeros(resamples)
    for n, chances in zip(size, smoothed, strict=True):
        drawn = generator.multinomial(n, chances, size=resamples)
        mean += (drawn[:, 2] - drawn[:, 0]) / n / len(counts)
    low, high = np.quantile(mean, [(1 - level) / 2, (1 + level) / 2])
    observed = float(np.mean((counts[:, 2] - counts[:, 0]) / size))
    return min(float(low), observed), max(float(high), observed)


def adjusted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons with Holm's p-values, said in ``p_method``, and Benjamini and Hochberg's beside them.

    Intervals stay per comparison.
    """
    raw = [c.p_value for c in comparisons]
    note = f", Holm over {len(comparisons)}" if len(comparisons) > 1 else ""
    return [
        c.model_copy(update={"p_value": p, "p_method": c.p_method + note, "p_bh": bh})
        for c, p, bh in zip(comparisons, holm(raw), benjamini_hochberg(raw), strict=True)
    ]


def reading(comparison: Comparison) -> str:
    """Verdict and scope in plain sentences; the report prints the same ones with labels in place of names."""
    return sentences.reading(comparison)


def _estimate(
    arm: str,
    control: str | None,
    benchmark: str,
    task: str | None,
    outcomes: dict[str, npt.NDArray[np.bool_]],
    level: float,
) -> Estimate:
    """Wilson on one task, or on the equal-weight mean of several.

    Unequal episode counts: Wilson at the Kish effective size K^2 / sum(1/n_k), which is the pooled count when they
    are equal. Pooling treats the spread between tasks as noise, so the interval errs on the wide side.
    """
    sizes = np.array([len(v) for v in outcomes.values()])
    rate = float(np.mean([v.mean() for v in outcomes.values()]))
    effective = len(sizes) ** 2 / float(np.sum(1 / sizes))
    low, high = proportion_confint(rate * effective, effective, alpha=1 - level, method="wilson")
    method = "Wilson"
    if task is None and len(set(sizes.tolist())) == 1:
        method += f", {len(sizes)} tasks (fixed strata, equal weight) of {sizes[0]} episodes pooled"
    elif task is None:
        method += f", {len(sizes)} tasks (fixed strata, equal weight), {effective:.1f} effective episodes"
    return Estimate(
        arm=arm,
        control=control,
        benchmark=benchmark,
        task=task,
        episodes=int(sizes.sum()),
        successes=int(sum(v.sum() for v in outcomes.values())),
        rate=rate,
        low=max(min(float(low), rate), 0.0),  # rounding at 0 and 1
        high=min(max(float(high), rate), 1.0),
        level=level,
        method=method,
        estimand="E2",
    )


def _chain_estimates(rows: Sequence[EpisodeRow], level: float) -> list[Estimate]:
    """The average number of subtasks in a row, the rates of 1, 2, ... in a row, and the average as the table's mean."""
    first = rows[0]
    name = sentences.row_name(first.arm, first.control)
    lengths, states, longest = chain_lengths(rows, name)
    found = intervals.chains(lengths, states, longest, level=level)

    def estimate(task: str | None, key: str) -> Estimate:
        interval, in_a_row = found[key], None if key == "average" else int(key)
        return Estimate(
            arm=first.arm,
            control=first.control,
            benchmark=first.benchmark,
            task=task,
            episodes=len(rows),
            successes=int(np.sum(lengths >= (in_a_row or longest))),
            rate=interval.value,
            low=interval.low,
            high=interval.high,
            level=interval.level,
            method=interval.method,
            estimand="E2",
            measure="completed" if in_a_row is None else "success",
            longest=longest,
            in_a_row=in_a_row,
        )

    return [*(estimate(first.task, key) for key in found), estimate(None, "average")]
