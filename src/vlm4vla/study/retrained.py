"""What holds for a recipe when it is trained again (estimand E3): means, differences, equivalence.

The method is that of reader studies in radiology (Obuchowski and Rockette; degrees of freedom of Hillis 2007; readers
nested in modalities): training seeds are the readers, starts the cases. The variance of a mean is what its seeds show
plus what its starts show, less the noise that both show. The retrain variance is pooled over the study's arms with
K (S - 1) degrees of freedom, as equal in points and as equal in proportion to p (1 - p), whichever is more: arms near
0 or 1 vary less, and must not make the others look steady. Where the arms clearly differ (``RULE``) each keeps its own,
as Welch's test has it.
No interval is narrower, and no p-value smaller, than that of the pooled checkpoints on starts like these (E2).

Seeds are not paired across arms: another backbone draws other random numbers from the same seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from vlm4vla.study.intervals import Interval, score
from vlm4vla.study.multiplicity import holm, letters
from vlm4vla.study.spread import Numbers, Spread, brown_forsythe, spread
from vlm4vla.study.successes import Successes
from vlm4vla.types import refuse

RULE = 0.05
"""Arms differ clearly in retrain variance where the Brown-Forsythe test says p < 0.05; it needs three seeds.

The rule is blind with few seeds: of studies with nine arms whose retrain SDs are 4 and 12 points it notices none with
three seeds, 18 % with five, 96 % with ten; until then the pairs of arms that vary most are covered 83 to 85 %
(`study simulate`). Bartlett's test sees more, but takes the skew of rates near 0 and 1 for unequal variances. Who
expects unequal variances declares them "separate" before the study."""

Variances = Literal["rule", "pooled", "separate"]


@dataclass(frozen=True)
class Contrast:
    """Estimates of any shape, with several ways to their variance; of these the one that claims least is used.

    ``ways``: (variance, degrees of freedom) of the seeds alone, of seeds and starts; last of the starts alone (E2).
    """

    value: Numbers
    ways: tuple[tuple[Numbers, Numbers], ...]

    def half_width(self, level: float) -> Numbers:
        upper = (1 + level) / 2
        found: Numbers = np.max([stats.t.ppf(upper, df) * np.sqrt(v) for v, df in self.ways], axis=0)
        return found

    def standard_error(self) -> Numbers:
        """The largest one; a half-width over a normal quantile would hold the t's few degrees of freedom as well."""
        found: Numbers = np.max([np.sqrt(v) for v, _ in self.ways], axis=0)
        return found

    def p_value(self) -> Numbers:
        """Two-sided p-values of "no difference"."""
        found: Numbers = np.minimum(2 * self._tail(np.abs(self.value)), 1.0)
        return found

    def equivalence(self, low: float, high: float) -> Numbers:
        """p-values of two one-sided tests: small means that the truth lies between the bounds."""
        found: Numbers = np.maximum(self._tail(self.value - low), self._tail(high - self.value))
        return found

    def _tail(self, distance: Numbers) -> Numbers:
        """Chance of an estimate this far or farther beyond its bound."""
        found: Numbers = np.max([stats.t.sf(distance / np.sqrt(v), df) for v, df in self.ways], axis=0)
        return found


def apart(s: Spread, variances: Variances) -> npt.NDArray[np.bool_]:
    """Which studies keep a retrain variance per arm, (...)."""
    if variances != "rule":
        return np.full(s.noise.shape[:-1], variances == "separate")
    found: npt.NDArray[np.bool_] = brown_forsythe(s.seed_means, 0.5 / s.episodes) < RULE
    return found


def differences(s: Spread, first: Sequence[int], second: Sequence[int], variances: Variances = "rule") -> Contrast:
    """First arms minus second arms, (..., pairs)."""
    own = s.retrain
    of_starts = np.diagonal(s.starts, axis1=-2, axis2=-1)
    e2 = of_starts[..., first] + of_starts[..., second] - 2 * s.starts[..., first, second]
    value = s.means[..., first] - s.means[..., second]
    arms, df = s.arms, s.seeds - 1
    pooled = np.broadcast_to(2 * own.mean(axis=-1, keepdims=True), value.shape)
    room = _room(s)
    relative = (
        own.sum(axis=-1, keepdims=True) / room.sum(axis=-1, keepdims=True) * (room[..., first] + room[..., second])
    )
    separate = own[..., first] + own[..., second]
    welch_df = _ratio(df * separate**2, own[..., first] ** 2 + own[..., second] ** 2, df)
    noise = s.noise[..., first] + s.noise[..., second]
    keep = apart(s, variances)[..., None]
    retrain = [np.where(keep, separate, variance) for variance in (pooled, relative)]
    return _contrast(s, value, retrain, np.where(keep, welch_df, arms * df), e2, noise)


def means(s: Spread, variances: Variances = "rule") -> Contrast:
    """The arms' means, (..., K)."""
    own, df = s.retrain, s.seeds - 1
    keep = apart(s, variances)[..., None]
    retrain = np.where(keep, own, own.mean(axis=-1, keepdims=True))
    retrain_df = np.where(keep, df, s.arms * df)
    e2 = np.diagonal(s.starts, axis1=-2, axis2=-1)
    return _contrast(s, s.means, [retrain], retrain_df, e2, s.noise)


def mean_interval(s: Spread, level: float, variances: Variances = "rule") -> tuple[Numbers, Numbers]:
    """Limits of the arms' means, (..., K) each, within 0 and 1.

    The hull of the t interval and of a score interval (Wilson's with effective episodes and t, as surveys use it):
    near 0 and 1 the t interval ends too early on the far side, since the few seeds seen vary less than the recipe.
    The score interval takes variances in proportion to p (1 - p), pooled like the others.
    """
    plain = means(s, variances)
    half = plain.half_width(level)
    room = _room(s)
    keep = apart(s, variances)[..., None]
    total = room.sum(axis=-1, keepdims=True)

    def share(variance: Numbers) -> Numbers:
        """A variance as a share of p (1 - p): one over the effective episodes."""
        found: Numbers = np.where(keep, variance / room, variance.sum(axis=-1, keepdims=True) / total)
        return found

    of_starts = np.diagonal(s.starts, axis1=-2, axis2=-1)
    # Where no start stands out, nothing says that the seeds' episodes count one by one: starts are counted.
    least = np.where(of_starts > 0, 1 / s.episodes, s.seeds / s.episodes)
    relative = _contrast(
        s, s.means, [share(s.retrain)], np.where(keep, s.seeds - 1, s.arms * (s.seeds - 1)), share(of_starts),
        share(s.noise),
    )  # fmt: skip
    low, high = s.means - half, s.means + half
    for one_over_n, df in relative.ways[1:]:
        a, b = score(s.means, np.maximum(one_over_n, least), stats.t.ppf((1 + level) / 2, df))
        low, high = np.minimum(low, a), np.maximum(high, b)
    return np.clip(low, 0, 1), np.clip(high, 0, 1)


def _room(s: Spread) -> Numbers:
    """p (1 - p) of each arm, (..., K), by Agresti and Coull's p, which is never 0 or 1."""
    smooth = (s.means * s.episodes + 2) / (s.episodes + 4)
    found: Numbers = smooth * (1 - smooth)
    return found


def _contrast(
    s: Spread, value: Numbers, retrain: Sequence[Numbers], retrain_df: Numbers, e2: Numbers, noise: Numbers
) -> Contrast:
    """Each retrain variance alone, and with what starts add to it (Satterthwaite's degrees of freedom); last E2.

    Where nothing differed at all, half an episode on either side keeps the variances above zero.
    """
    least = 1 / s.episodes**2
    starts = np.maximum(e2 - noise, 0.0)
    ways = []
    for variance in retrain:
        both = variance + starts
        df = _ratio(both**2, variance**2 / retrain_df + starts**2 / s.starts_df, s.starts_df)
        ways += [(variance + least, retrain_df), (both + least, df)]
    of_starts = np.maximum(e2, 0.0) + least
    ways.append((of_starts, np.full_like(of_starts, s.starts_df)))
    return Contrast(value, tuple(ways))


def _ratio(above: Numbers, below: Numbers, otherwise: float) -> Numbers:
    """``above`` / ``below``, and ``otherwise`` where both vanish."""
    positive = below > 1e-18
    found: Numbers = np.where(positive, above / np.where(positive, below, 1.0), otherwise)
    return found


# --- one study, in words --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference(Interval):
    """``a`` minus ``b`` as recipes. ``p_value`` of no difference, unadjusted; ``caution``: what to hold against it."""

    a: str
    b: str
    p_value: float
    equivalence_p: float | None
    bounds: tuple[float, float] | None
    caution: str | None


@dataclass(frozen=True)
class Recipe(Interval):
    """The mean over tasks of a recipe. ``caution``: what to hold against it."""

    arm: str
    standard_error: float
    caution: str | None


PILOT = "pilot: two training runs per arm say little about retraining"
EDGE = (
    "a rate within 10 points of 0 or 1 with so few training runs: if most runs of a recipe fail and few succeed (or "
    "the reverse), the runs seen say too little, and the interval may cover less often than it claims"
)
EDGE_OF_CHAINS = EDGE.replace("a rate within 10 points of 0 or 1", "an average within a tenth of its scale's ends")
EDGE_DF = 8  # K (S - 1) up to which the simulation shows the fault, see `study simulate`


def at_the_edge(rate: float, arms: int, seeds: int) -> bool:
    """Whether the interval of a mean is known to be too narrow where most runs of a recipe fail and few succeed."""
    return not 0.1 <= rate <= 0.9 and arms * (seeds - 1) <= EDGE_DF


def recipes(study: Successes, *, level: float = 0.95, variances: Variances = "rule") -> list[Recipe]:
    """E3 of every arm's mean over tasks; of chains, of the average number of subtasks in a row."""
    s = spread(study.outcomes, study.episodes)
    low, high = mean_interval(s, level, variances)
    error = means(s, variances).standard_error()
    method = _method(study, s, bool(apart(s, variances)))
    found = []
    for k, arm in enumerate(study.arms):
        cautions = [PILOT] if s.seeds == 2 else []
        if at_the_edge(float(s.means[k]), s.arms, s.seeds):
            cautions.append(EDGE if study.longest is None else EDGE_OF_CHAINS)
        value, a, b, own = (study.unit * float(x[k]) for x in (s.means, low, high, error))
        found.append(Recipe("E3", value, a, b, level, method, arm, own, "; ".join(cautions) or None))
    return found


def compare_recipes(
    study: Successes,
    *,
    level: float = 0.95,
    variances: Variances = "rule",
    bounds: tuple[float, float] | None = None,
) -> list[Difference]:
    """E3 of every pair of arms, in their order. ``bounds``: declared before the study, to test equivalence in them.

    Of chains, differences and bounds are in subtasks solved in a row.
    """
    if len(study.arms) < 2:
        raise refuse("One arm has nothing to be compared with", todo="Give the rows of a second arm.")
    if bounds is not None and not bounds[0] < 0 < bounds[1]:
        raise refuse(
            f"The bounds of equivalence {bounds[0]} and {bounds[1]} do not hold 0 between them",
            possible="a negative and a positive difference in rate units, such as -0.05 and 0.05",
            todo="Declare the smallest difference that matters, on either side.",
        )
    s = spread(study.outcomes, study.episodes)
    pairs = list(combinations(range(s.arms), 2))
    found = differences(s, [i for i, _ in pairs], [j for _, j in pairs], variances)
    value, half, p = study.unit * found.value, study.unit * found.half_width(level), found.p_value()
    equal = None if bounds is None else found.equivalence(bounds[0] / study.unit, bounds[1] / study.unit)
    return [
        Difference(
            "E3", float(value[n]), float(value[n] - half[n]), float(value[n] + half[n]), level,
            _method(study, s, bool(apart(s, variances))), study.arms[i], study.arms[j], float(p[n]),
            None if equal is None else float(equal[n]), bounds, PILOT if s.seeds == 2 else None,
        )
        for n, (i, j) in enumerate(pairs)
    ]  # fmt: skip


def _method(study: Successes, s: Spread, separate: bool) -> str:
    variance = (
        f"a retrain variance per arm (Welch, {s.seeds - 1} degrees of freedom each)"
        if separate
        else f"retrain variance pooled over {s.arms} arms ({s.arms * (s.seeds - 1)} degrees of freedom)"
    )
    per_arm = f"t over {s.seeds} training runs per arm, {variance}"
    if study.episodes is not None:
        return f"{per_arm}, {s.start_counts[0]} initial states added (jackknife), never narrower than E2"
    tasks = len(s.start_counts)
    strata = f", {tasks} tasks as fixed strata" if tasks > 1 else ""
    return f"{per_arm}, starts added, never narrower than E2{strata}"


def display(found: Sequence[Recipe], compared: Sequence[Difference]) -> dict[str, str]:
    """Compact letters of all recipes, best first: two share a letter where Holm's test cannot tell them apart."""
    adjusted = holm([d.p_value for d in compared])
    different = [(d.a, d.b) for d, p in zip(compared, adjusted, strict=True) if p <= 1 - d.level]
    return letters([r.arm for r in sorted(found, key=lambda r: -r.value)], different)
