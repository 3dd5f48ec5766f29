"""A number measured by simulation, with its standard error and the band that it must lie in."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Safe = Literal["above", "below"] | None


@dataclass(frozen=True)
class Figure:
    """One number of the simulation with its standard error and the band it must lie in, limits included.

    ``safe``: the side on which a fault costs power, but makes no false claim (coverage: above; rejections: below).
    """

    name: str
    value: float
    error: float
    low: float
    high: float
    safe: Safe = None

    @property
    def outside(self) -> bool:
        return not self.low <= self.value <= self.high

    @property
    def beyond_chance(self) -> bool:
        return not self.low - 3 * self.error <= self.value <= self.high + 3 * self.error

    @property
    def unsafe(self) -> bool:
        """Beyond chance, and on the side that makes false claims."""
        return self.beyond_chance and self.safe != ("above" if self.value > self.high else "below")

    def words(self) -> dict[str, Any]:
        numbers = {k: round(v, 5) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return {**numbers, "beyond_chance": self.beyond_chance, "unsafe": self.unsafe}


def figure(name: str, per_study: np.ndarray[Any, Any], low: float, high: float, safe: Safe = None) -> Figure:
    """The mean over studies (first axis), with the standard error of their spread, at least that of one study."""
    flat = per_study.reshape(len(per_study), -1).mean(axis=1)
    error = max(float(flat.std(ddof=1)) / len(flat) ** 0.5, 1 / len(flat))
    return Figure(name, float(flat.mean()), error, low, high, safe)
