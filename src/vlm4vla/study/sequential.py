"""Stop early without cheating: a sequential test of two fixed checkpoints on paired starts (estimand E2).

A bet on every discordant pair: under the null hypothesis each is a fair coin, so the product of fair bets is a
martingale that starts at 1, and exceeds 1 / alpha with a chance of at most alpha, whenever one stops (Ville). The
stake is a mixture over all coins (Beta 1/2, 1/2), the e-value of Turner and Gruenwald's kind for a paired 2x2 table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from vlm4vla.study.successes import Start
from vlm4vla.types import refuse

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sequential:
    """What a sequential test found so far. ``stopped_at``: pairs seen when it first rejected, null if it has not.

    ``p_value`` may be read at any time: one over the greatest e-value so far. ``finished``: rejected, or at ``n_max``.
    """

    pairs: int
    n_max: int
    only_a: int
    only_b: int
    e_value: float
    p_value: float
    stopped_at: int | None
    finished: bool
    better: str | None
    alpha: float
    method: str
    estimand: str = "E2"


def e_values(difference: npt.ArrayLike) -> Numbers:
    """(..., n) outcomes of ``a`` minus ``b`` per pair, in order -> (..., n) e-values after each pair."""
    d = np.asarray(difference)
    a, b = np.cumsum(d > 0, axis=-1), np.cumsum(d < 0, axis=-1)
    log = (a + b) * np.log(2) + special.betaln(a + 0.5, b + 0.5) - special.betaln(0.5, 0.5)
    found: Numbers = np.exp(log)
    return found


def sequential(
    pairs: Sequence[tuple[Start, bool, bool]],
    order: Sequence[Start],
    a_name: str,
    b_name: str,
    *,
    alpha: float = 0.05,
) -> Sequential:
    """The test after the ``pairs`` (start, success of a, success of b) seen so far.

    ``order`` is the whole list of starts in the order declared before the first episode; its length is n_max. Pairs
    that were not run in this order are refused: who may choose the next start may choose the result.
    """
    seen = [start for start, _, _ in pairs]
    if not order or len(set(order)) < len(order) or not 0 < alpha < 1:
        raise refuse(
            f"The declared order has {len(order)} starts, {len(set(order))} different ones; alpha is {alpha}",
            possible="every start once, at least one, and alpha between 0 and 1",
            todo="Declare the order again, before any episode is run.",
        )
    if seen != list(order[: len(seen)]):
        wrong = next((i for i, s in enumerate(seen) if i >= len(order) or s != order[i]), 0)
        raise refuse(
            f"Pair {wrong + 1} is {seen[wrong]}, which is not the declared one",
            possible=f"{order[wrong]}" if wrong < len(order) else f"at most {len(order)} pairs, as declared",
            todo="Give the pairs in the declared order, without gaps.",
        )
    difference = np.array([int(a) - int(b) for _, a, b in pairs], dtype=np.int64)
    path = e_values(difference)
    beyond = np.flatnonzero(path >= 1 / alpha)
    stop = int(beyond[0]) + 1 if len(beyond) else None
    only_a, only_b = int(np.sum(difference > 0)), int(np.sum(difference < 0))
    greatest = float(path.max()) if len(path) else 1.0
    better = None
    if stop is not None:
        better = a_name if difference[:stop].sum() > 0 else b_name
    return Sequential(
        pairs=len(pairs),
        n_max=len(order),
        only_a=only_a,
        only_b=only_b,
        e_value=float(path[-1]) if len(path) else 1.0,
        p_value=min(1.0, 1 / greatest),
        stopped_at=stop,
        finished=stop is not None or len(pairs) == len(order),
        better=better,
        alpha=alpha,
        method="e-values of bets on discordant pairs, Beta(1/2, 1/2) mixture",
    )
