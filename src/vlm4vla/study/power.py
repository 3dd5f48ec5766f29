"""How many training runs a claim about recipes needs, and why more episodes do not replace them.

Two arms are compared by t with the retrain variance pooled over ``arms`` arms; power is that of the noncentral t.
Rates are in units (0.03 = 3 points).
"""

import math
from dataclasses import dataclass
from typing import Any

from scipy import optimize, stats

from vlm4vla.types import refuse

RETRAIN_SD = 0.04
"""What is assumed when nothing was measured: published SDs over retraining go from 1 to 11 points."""
RETRAIN_SDS = (0.01, 0.02, 0.04, 0.06, 0.08, 0.11)
_MOST = 100_000


@dataclass(frozen=True)
class Design:
    """Two arms out of ``arms`` compared. ``episode_variance``: of one checkpoint's rate, given the checkpoint."""

    retrain_sd: float = RETRAIN_SD
    arms: int = 2
    alpha: float = 0.05
    episode_variance: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.retrain_sd <= 0.5 and self.arms >= 2 and 0 < self.alpha < 1 and self.episode_variance >= 0):
            raise refuse(
                f"retrain SD {self.retrain_sd}, {self.arms} arms, alpha {self.alpha}: no such study",
                possible="a retrain SD of 0 to 0.5 (50 points), two arms or more, alpha between 0 and 1",
                todo="Correct the figure.",
            )
        if self.retrain_sd == 0 == self.episode_variance:
            raise refuse(
                "Without retrain variance and without episode noise every difference is seen",
                possible="a retrain SD above 0; 1 to 11 points are published",
                todo="Give the SD that `study` found in a pilot, or leave the default.",
            )

    def power(self, seeds: int, difference: float) -> float:
        """Chance that a true ``difference`` is found with ``seeds`` training runs per arm."""
        df = self.arms * (seeds - 1)
        away = abs(difference) / math.sqrt(2 * (self.retrain_sd**2 + self.episode_variance) / seeds)
        limit = stats.t.ppf(1 - self.alpha / 2, df)
        # From 3 on the wrong side has a chance below 3e-5; scipy's series fails out there (NaN from 3.7, many arms).
        wrong_side = float(stats.nct.cdf(-limit, df, away)) if away < 3 else 0.0
        return float(stats.nct.sf(limit, df, away)) + wrong_side

    def seeds(self, difference: float, power: float = 0.8) -> int:
        """The least number of training runs per arm, two or more, with at least this ``power``."""
        if not (0 < abs(difference) <= 1 and self.alpha < power < 1):
            raise refuse(
                f"A difference of {difference} with power {power} cannot be planned for",
                possible="a difference above 0 and up to 1 (100 points), a power between alpha and 1",
                todo="Correct the figure.",
            )
        low, high = 1, 2
        while self.power(high, difference) < power:
            low, high = high, 2 * high
            if high > _MOST:
                raise refuse(
                    f"More than {_MOST} training runs per arm would be needed",
                    possible=f"a larger difference than {difference}",
                    todo="Plan for a difference that matters.",
                )
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.power(middle, difference) >= power else (middle, high)
        return high

    def detectable(self, seeds: int, power: float = 0.8) -> float:
        """The smallest difference that ``seeds`` training runs per arm find with this ``power``; may exceed 1."""
        scale = math.sqrt(2 * (self.retrain_sd**2 + self.episode_variance) / seeds)
        found = optimize.brentq(lambda d: self.power(seeds, d) - power, 1e-9, 60 * scale, xtol=1e-9)
        return float(found)


def plan(
    difference: float,
    retrain_sd: float = RETRAIN_SD,
    *,
    power: float = 0.8,
    arms: int = 2,
    comparisons: int = 1,
    episodes: int | None = None,
    rate: float = 0.5,
) -> dict[str, Any]:
    """Seeds per arm for a difference, and what other figures would change.

    ``comparisons``: alpha is divided by it, as Holm's first step does. ``episodes`` per checkpoint at success ``rate``
    add p (1 - p) / episodes, which is an upper bound where tasks and starts differ; without it evaluation is taken as
    free of noise, and the number is a floor that no number of episodes goes below.
    """
    if comparisons < 1 or not 0 < rate < 1 or (episodes is not None and episodes < 1):
        raise refuse(
            f"{comparisons} comparisons, rate {rate}, {episodes} episodes: no such study",
            possible="at least one comparison and one episode, a rate between 0 and 1",
            todo="Correct the figure.",
        )

    def design(sd: float, count: int | None) -> Design:
        return Design(sd, arms, 0.05 / comparisons, rate * (1 - rate) / count if count else 0.0)

    chosen = design(retrain_sd, episodes)
    need = chosen.seeds(difference, power)
    grid = sorted({100, 500, 1000, 10_000} | ({episodes} if episodes else set()))
    by_episodes: list[dict[str, Any]] = [
        {"episodes": count, "seeds": design(retrain_sd, count).seeds(difference, power)} for count in grid
    ]
    floor = design(retrain_sd, None).seeds(difference, power) if retrain_sd > 0 else 2
    return {
        "estimand": "E3",
        "difference": difference,
        "retrain_sd": retrain_sd,
        "power": power,
        "alpha": 0.05 / comparisons,
        "arms": arms,
        "episodes": episodes,
        "seeds": need,
        "power_at_seeds": round(chosen.power(need, difference), 4),
        "seeds_by_episodes": [*by_episodes, {"episodes": None, "seeds": floor}],
        "seeds_by_retrain_sd": [
            {"retrain_sd": sd, "seeds": design(sd, episodes).seeds(difference, power)} for sd in RETRAIN_SDS
        ],
        "detectable": [
            {"seeds": n, "difference": round(chosen.detectable(n, power), 4)} for n in (2, 3, 5, 10, 20, 30)
        ],
    }


def sentences(found: dict[str, Any]) -> list[str]:
    """A plan in words; points, not rates."""

    def points(rate: float) -> str:
        return f"{100 * rate:.3g}"

    def listed(entries: list[dict[str, Any]], words: str) -> str:
        told = [{k: v if k in ("seeds", "episodes") else points(v) for k, v in x.items() if v} for x in entries]
        return ", ".join(words.format(**x) for x in told)

    noise = f"{found['episodes']} episodes each" if found["episodes"] else "no noise of evaluation"
    *counted, endless = found["seeds_by_episodes"]
    return [
        f"A difference of {points(found['difference'])} points between recipes at a retrain SD of "
        f"{points(found['retrain_sd'])} points needs {found['seeds']} training runs per arm ({noise}; power "
        f"{found['power_at_seeds']:.3f}, alpha {found['alpha']:.3g} two-sided, variance pooled over {found['arms']} "
        f"arms; estimand {found['estimand']}).",
        f"More episodes do not replace training runs: {listed(counted, '{seeds} with {episodes}')} episodes per run, "
        f"and {endless['seeds']} with any number of them.",
        f"At other retrain SDs: {listed(found['seeds_by_retrain_sd'], '{seeds} at {retrain_sd}')} points.",
        f"What can be seen: {listed(found['detectable'], '{difference} points with {seeds} runs')}.",
    ]
