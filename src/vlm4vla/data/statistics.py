"""Statistics of actions, one number per dimension: what a normaliser is fitted from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Statistics:
    """Over ``count`` steps, in the units of the action spec; quantiles are exact, not of a histogram."""

    count: int
    min: tuple[float, ...]
    max: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    q01: tuple[float, ...]
    q99: tuple[float, ...]

    @classmethod
    def of(cls, actions: npt.NDArray[np.float32], weights: npt.NDArray[np.float64] | None = None) -> "Statistics":
        """From (N, A) actions; N >= 1. With ``weights`` (N,), row i counts so many times in all but the extremes.

        A quantile lies between two rows (numpy's ``linear``); with weights it is a row (``inverted_cdf``).
        """
        exact = actions.astype(np.float64)
        method: Any = "linear" if weights is None else "inverted_cdf"
        q01, q99 = np.quantile(exact, [0.01, 0.99], axis=0, method=method, weights=weights)
        mean = np.average(exact, axis=0, weights=weights)
        std = np.sqrt(np.average((exact - mean) ** 2, axis=0, weights=weights))
        rows = (exact.min(0), exact.max(0), mean, std, q01, q99)
        return cls(len(actions), *(tuple(float(x) for x in row) for row in rows))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Statistics":
        return cls(data["count"], *(tuple(data[key]) for key in ("min", "max", "mean", "std", "q01", "q99")))
