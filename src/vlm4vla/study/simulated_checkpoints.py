"""What intervals and tests of fixed checkpoints (E2) do in made-up studies; starts are drawn, checkpoints are given."""

from typing import Any

import numpy as np

from vlm4vla.study.compare import bootstrap_interval
from vlm4vla.study.figures import Figure, Safe, figure
from vlm4vla.study.intervals import clopper_pearson, mcnemar, wilson

Array = np.ndarray[Any, Any]
BOOTSTRAPPED = 1000
"""Studies whose pair is bootstrapped, with ``RESAMPLES`` each: the only part that cannot be batched."""
RESAMPLES = 1000


class Checkpoints:
    """Adds up studies of one setting. Limits come from the product's functions, once per count of successes."""

    def __init__(self, tasks: int, starts: int, level: float) -> None:
        self.level, self.tasks, self.starts = level, tasks, starts
        pooled = [wilson(k, tasks * starts, level) for k in range(tasks * starts + 1)]
        exact = [clopper_pearson(k, starts, level) for k in range(starts + 1)]
        self.pooled = np.array([(i.low, i.high) for i in pooled])
        self.exact = np.array([(i.low, i.high) for i in exact])
        self.values: dict[str, list[Array]] = {}
        self.bootstrapped = 0

    def add(self, y: Array, truth: Array, equal: bool) -> None:
        """``y`` (studies, arms, seeds, tasks, starts), ``truth`` (..., tasks). ``equal``: all checkpoints are."""
        counts = y.sum(axis=-1)
        low, high = np.moveaxis(self.pooled[counts.sum(axis=-1)], -1, 0)
        mean = truth.mean(axis=-1)
        self._keep("Wilson, mean over tasks", (low <= mean) & (mean <= high))
        low, high = np.moveaxis(self.exact[counts], -1, 0)
        self._keep("Clopper-Pearson, one task", (low <= truth) & (truth <= high))
        self._bootstrap(y[:, 0, 0], y[:, 1, 0], mean[:, 0, 0] - mean[:, 1, 0])
        if equal:
            pairs = y[:, : 2 * (y.shape[1] // 2)]
            a, b = pairs[:, 0::2], pairs[:, 1::2]
            only_a, only_b = (a & ~b).sum(axis=(-2, -1)), (b & ~a).sum(axis=(-2, -1))
            self._keep("McNemar mid-p rejects", mcnemar(only_a, only_b, mid=True) <= 1 - self.level)
            self._keep("McNemar exact rejects", mcnemar(only_a, only_b) <= 1 - self.level)

    def figures(self) -> list[Figure]:
        return [figure(name, np.concatenate(parts), *BANDS[name]) for name, parts in self.values.items()]

    def _bootstrap(self, a: Array, b: Array, truth: Array) -> None:
        left = BOOTSTRAPPED - self.bootstrapped
        if left <= 0:
            return
        difference = a[:left].astype(np.int64) - b[:left]
        counts = np.stack([(difference == v).sum(axis=-1) for v in (-1, 0, 1)], axis=-1)
        hits = []
        for i, of_task in enumerate(counts):
            low, high = bootstrap_interval(of_task, level=self.level, resamples=RESAMPLES, seed=self.bootstrapped + i)
            hits.append(low <= truth[i] <= high)
        self.bootstrapped += len(hits)
        self._keep("paired bootstrap, difference", np.array(hits))

    def _keep(self, name: str, hits: Array) -> None:
        self.values.setdefault(name, []).append(hits.reshape(len(hits), -1).mean(axis=1))


BANDS: dict[str, tuple[float, float, Safe]] = {
    "Wilson, mean over tasks": (0.93, 0.98, "above"),
    "Clopper-Pearson, one task": (0.95, 1.0, "above"),
    "paired bootstrap, difference": (0.93, 0.98, "above"),
    "McNemar mid-p rejects": (0.03, 0.06, "below"),
    "McNemar exact rejects": (0.0, 0.05, "below"),
}
