"""Permutation tests of a correlation: every assignment of the scores to the VLMs, or a declared sample of them."""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import permutations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Orders = npt.NDArray[np.signedinteger]
"""Permutations as rows: (M, N)."""

EXACT_UP_TO = 9
"""9! = 362,880 permutations take less than a second; above that, ``SAMPLED`` ones are drawn with ``SEED``."""
SAMPLED = 200_000
BLOCKS = 20
SEED = 0
TOLERANCE = 1e-12
"""Statistics that differ by less, relatively, are equal: sums in another order round differently."""


def permutation_p(x: Floats, y: Floats) -> tuple[float, str]:
    """Two-sided p of |r| under all assignments of the scores to the VLMs, and its method in words."""
    dx, dy = x - x.mean(), y - y.mean()
    return _permutation(len(x), lambda order: np.abs(dx[order] @ dy), abs(float(dx @ dy)))


def kendall_p(x: Floats, y: Floats) -> float:
    """Two-sided permutation p of Kendall's tau b; ties are no obstacle: they stay the same in all permutations."""
    sign_x = np.sign(x[:, None] - x).astype(np.int8)
    sign_y = np.sign(y[:, None] - y).astype(np.int8)
    pairs = [(i, j) for i in range(len(x)) for j in range(i)]

    def statistic(order: Orders) -> Floats:
        total = np.zeros(len(order), dtype=np.int32)
        for i, j in pairs:
            total += sign_x[order[:, i], order[:, j]] * sign_y[i, j]
        return np.abs(total).astype(np.float64)

    observed = abs(sum(int(sign_x[i, j]) * int(sign_y[i, j]) for i, j in pairs))
    return _permutation(len(x), statistic, observed)[0]


def _orders(n: int) -> Iterator[Orders]:
    """Blocks of permutations: all of them in one, or a declared sample."""
    if n <= EXACT_UP_TO:
        yield _all_orders(n)
        return
    generator = np.random.default_rng(SEED)
    index = np.tile(np.arange(n, dtype=np.int16), (SAMPLED // BLOCKS, 1))
    for _ in range(BLOCKS):
        yield generator.permuted(index, axis=1)


@cache
def _all_orders(n: int) -> Orders:
    return np.array(list(permutations(range(n))), dtype=np.int8)


def _permutation(n: int, statistic: Callable[[Orders], Floats], observed: float) -> tuple[float, str]:
    found = [statistic(order) for order in _orders(n)]
    as_large = sum(int(np.sum(values >= observed - TOLERANCE * max(1.0, observed))) for values in found)
    total = sum(len(values) for values in found)
    if n <= EXACT_UP_TO:
        return as_large / total, f"all {total:,} permutations"
    return (as_large + 1) / (total + 1), f"{total:,} random permutations, seed {SEED}"
