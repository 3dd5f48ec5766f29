"""Two common ways to compare recipes that do not hold, kept only so that `study simulate` can show how they fail.

Nothing else may call them. Both take studies as (studies, 2 arms, seeds, tasks, starts) of equally good arms.
"""

from typing import Any

import numpy as np

from vlm4vla.study.intervals import mcnemar

Array = np.ndarray[Any, Any]
RESAMPLES = 500
MCNEMAR = "McNemar over task, start and seed rejects"
BOOTSTRAP = "percentile bootstrap over seeds covers"
BANDS = {MCNEMAR: (0.0, 1.0), BOOTSTRAP: (0.0, 1.0)}


def once(y: Array, generator: np.random.Generator, level: float) -> dict[str, Array]:
    """Per study: does McNemar's test over all episodes reject, and does the bootstrap over seeds cover zero?"""
    a, b = y[:, 0], y[:, 1]
    axes = tuple(range(1, a.ndim))
    p = mcnemar((a & ~b).sum(axis=axes), (b & ~a).sum(axis=axes))
    seeds = y.shape[2]
    means = y.mean(axis=(-2, -1))
    shares = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=(2, RESAMPLES)) / seeds
    drawn = shares[0] @ means[:, 0].T - shares[1] @ means[:, 1].T
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {MCNEMAR: p <= 1 - level, BOOTSTRAP: (low <= 0) & (high >= 0)}
