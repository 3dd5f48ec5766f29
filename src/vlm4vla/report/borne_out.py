"""Recorded numbers against the rows that they claim to sum up: one that its rows do not bear out is refused.

Counts, means and differences are made again from the rows. Intervals and p-values are not: they are the study's.
"""

from collections.abc import Callable, Sequence
from statistics import fmean

from vlm4vla.records import Comparison, EpisodeRow, Estimate, Measure
from vlm4vla.report.sentences import row_name
from vlm4vla.types import refuse

CLOSE = 1e-9
"""Rates and differences may be this far from those of their rows: sums in another order."""
Value = Callable[[EpisodeRow], float]


def estimate(e: Estimate, rows: Sequence[EpisodeRow], name: str) -> None:
    """Refuses an estimate with other counts or another rate than ``rows``, which are all that it is about."""
    least = e.in_a_row or e.longest
    solved = sum(row.success if least is None else (row.completed or 0) >= least for row in rows)
    where = f"{row_name(name, e.control)!r} on {e.task or 'all tasks'}"
    if not rows or (len(rows), solved) != (e.episodes, e.successes):
        raise _contradiction(
            f"The estimate of {where} says {e.successes} of {e.episodes}, its rows say {solved} of {len(rows)}"
        )
    rate = solved / len(rows) if e.in_a_row is not None else _mean(rows, e.measure)
    if not abs(rate - e.rate) <= CLOSE:
        raise _contradiction(f"The estimate of {where} says a mean of {e.rate:.9g}, its rows say {rate:.9g}")


def difference(c: Comparison, a: Sequence[EpisodeRow], b: Sequence[EpisodeRow]) -> None:
    """Refuses a comparison with another difference, or other pairs, than the rows of its two sides.

    Recipes (E3) are compared by their means, checkpoints on the starts that both have.
    """
    first, second = ({(row.task, row.episode): row for row in side} for side in (a, b))
    paired = c.estimand != "E3"
    both = [(first[start], second[start]) for start in first if start in second] if paired else []
    if not a or not b or (paired and not both):
        raise _contradiction(f"The comparison of {c.a!r} with {c.b!r} has no rows")
    if paired:
        a, b = [x for x, _ in both], [y for _, y in both]
        value = _value(c.measure)
        ahead = [value(x) - value(y) for x, y in both]
        counts = (len(both), sum(d > 0 for d in ahead), sum(d < 0 for d in ahead))
        if counts != (c.pairs, c.only_a, c.only_b):
            raise _contradiction(
                f"The comparison of {c.a!r} with {c.b!r} says {c.pairs} pairs, {c.only_a} for the first and {c.only_b} "
                f"for the second; its rows say {counts[0]}, {counts[1]} and {counts[2]}"
            )
    found = _mean(a, c.measure) - _mean(b, c.measure)
    if not abs(found - c.difference) <= CLOSE:
        raise _contradiction(
            f"The comparison of {c.a!r} with {c.b!r} says a difference of {c.difference:.9g}, its rows say {found:.9g}"
        )


def _value(measure: Measure) -> Value:
    return (lambda row: row.completed or 0) if measure == "completed" else (lambda row: row.success)


def _mean(rows: Sequence[EpisodeRow], measure: Measure) -> float:
    """Over tasks of equal weight; of the subtasks solved in a row where these are measured."""
    value = _value(measure)
    of_task: dict[str, list[float]] = {}
    for row in rows:
        of_task.setdefault(row.task, []).append(value(row))
    return fmean(fmean(values) for values in of_task.values())


def _contradiction(what: str) -> Exception:
    return refuse(
        what,
        possible="estimates and comparisons made from these rows",
        todo="Make them again with `vlm4vla study run`; it keeps finished episodes.",
    )
