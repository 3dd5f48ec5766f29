"""Correlation of VLM scores with success: families first, exact permutations, errors of both axes.

Nine VLMs of four families are not nine independent observations. Everything here is deterministic; where draws are
needed their seed and number are declared.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats
from statsmodels.stats.multitest import multipletests

from vlm4vla.report.correlation import Correlation, FamilyMeans, Homogeneity, LeftOut, Point, Prediction
from vlm4vla.study.permutation import kendall_p, permutation_p
from vlm4vla.types import refuse

Floats = npt.NDArray[np.float64]

SEED = 0
NOISE_DRAWS = 100_000
POWER = 0.8


def correlate(
    points: Sequence[Point],
    *,
    scores: str,
    benchmark: str,
    unit: str,
    limits: tuple[float, float] | None = None,
    level: float = 0.95,
    notes: Sequence[str] = (),
) -> Correlation:
    """Everything about one score and one benchmark; ``limits`` of success cut the prediction intervals.

    Refuses fewer than four VLMs (Fisher's interval needs them), a VLM twice, and an axis on which all are equal.
    """
    _check(points, scores, benchmark)
    x, y = np.array([p.score for p in points]), np.array([p.success for p in points])
    family = np.array([p.family for p in points])
    n, r = len(points), pearson(x, y)
    low, high = fisher_interval(r, n, level)
    p, method = permutation_p(x, y)
    ranks = stats.rankdata(x), stats.rankdata(y)
    reliability_y = reliability(y, _errors([point.success_error for point in points]))
    reliability_x = reliability(x, _errors([point.score_error for point in points]))
    by_family = [_left_out(str(f), x[family != f], y[family != f]) for f in dict.fromkeys(family)]
    by_vlm = [_left_out(point.vlm, np.delete(x, i), np.delete(y, i)) for i, point in enumerate(points)]
    slope, intercept = np.polyfit(x, y, 1)
    return Correlation(
        scores=scores,
        benchmark=benchmark,
        unit=unit,
        families_left_out=by_family,
        family_range=_range(by_family),
        family_means=_family_means(x, y, family),
        within_r=_within(x, y, family),
        n=n,
        families=len(by_family),
        r=r,
        low=low,
        high=high,
        level=level,
        p=p,
        p_holm=p,
        p_method=method,
        spearman=pearson(*ranks),
        spearman_p=permutation_p(*ranks)[0],
        kendall=kendall(x, y),
        kendall_p=kendall_p(x, y),
        vlms_left_out=by_vlm,
        vlm_range=_range(by_vlm),
        success_reliability=reliability_y,
        score_reliability=reliability_x,
        homogeneity=homogeneity(points),
        noise_range=_noise_range(points, level),
        corrected_r=_corrected(r, reliability_x, reliability_y),
        slope=float(slope),
        intercept=float(intercept),
        predictions=_predictions(x, y, family, limits, level),
        critical_r=critical_r(n, level),
        detectable_r=detectable_r(n, level),
        points=list(points),
        notes=tuple(notes),
    )


def with_holm(found: Sequence[Correlation]) -> list[Correlation]:
    """The same correlations with ``p_holm`` over all of them."""
    if not found:
        return []
    adjusted = multipletests([c.p for c in found], method="holm")[1]
    return [c.model_copy(update={"p_holm": float(p)}) for c, p in zip(found, adjusted, strict=True)]


def pearson(x: Floats, y: Floats) -> float:
    """Pearson's r of (N,) and (N,); NaN where one of them has no spread."""
    dx, dy = x - x.mean(), y - y.mean()
    size = float(np.sqrt((dx @ dx) * (dy @ dy)))
    return float(np.clip(dx @ dy / size, -1, 1)) if size > 0 else float("nan")


def fisher_interval(r: float, n: int, level: float) -> tuple[float, float]:
    """Fisher's z interval of Pearson's r, for n of at least 4. At n = 9 it covers 95 %, a percentile bootstrap 90 %."""
    reach = stats.norm.ppf((1 + level) / 2) / np.sqrt(n - 3)
    z = np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15))
    return float(np.tanh(z - reach)), float(np.tanh(z + reach))


def kendall(x: Floats, y: Floats) -> float:
    """Kendall's tau b."""
    return float(stats.kendalltau(x, y).statistic)


def reliability(values: Floats, errors: Floats | None) -> float | None:
    """Share of the variance between VLMs (unbiased) that is not squared standard error; 0 where noise explains all."""
    if errors is None:
        return None
    return float(max(0.0, 1 - np.mean(errors**2) / values.var(ddof=1)))


def homogeneity(points: Sequence[Point]) -> Homogeneity | None:
    """Pearson's chi-square test that all counts have one rate; none where a count is missing or all are 0 or full."""
    counts = [(p.successes, p.trials) for p in points if p.successes is not None and p.trials is not None]
    k, n = np.array(counts, dtype=np.float64).reshape(-1, 2).T
    if len(counts) < len(points) or not 0 < k.sum() < n.sum():
        return None
    found = stats.chi2_contingency(np.stack([k, n - k]), correction=False)
    return Homogeneity(chi2=float(found.statistic), df=int(found.dof), p=float(found.pvalue))


def critical_r(n: int, level: float) -> float:
    """The |r| at which the two-sided t test becomes significant."""
    t = stats.t.ppf((1 + level) / 2, n - 2)
    return float(t / np.sqrt(n - 2 + t**2))


def detectable_r(n: int, level: float) -> float:
    """The true |r| that a two-sided test finds with 80 % power, by Fisher's z."""
    return float(np.tanh((stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(POWER)) / np.sqrt(n - 3)))


def mmrv(real: npt.ArrayLike, simulated: npt.ArrayLike) -> float:
    """Mean maximum rank violation of a simulation (SIMPLER): per policy the largest real difference to another policy
    that the simulation orders the other way, averaged over policies. (N,), (N,) -> 0 when no pair is misordered."""
    r, s = np.asarray(real, dtype=np.float64), np.asarray(simulated, dtype=np.float64)
    difference = r[:, None] - r
    misordered = (s[:, None] < s) != (difference < 0)
    return float((np.abs(difference) * misordered).max(axis=1).mean())


def _check(points: Sequence[Point], scores: str, benchmark: str) -> None:
    names = [p.vlm for p in points]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise refuse(
            f"{', '.join(twice)} is there twice", possible="one score and one success per VLM", todo="Keep one."
        )
    if len(points) < 4:
        raise refuse(
            f"{scores!r} against {benchmark!r}: {len(points)} VLMs have both a score and a success rate",
            given=", ".join(names),
            possible="four VLMs or more; with nine, an r below 0.67 is not significant",
            todo="Evaluate more VLMs, or check that both files spell their names alike.",
        )
    for what, values in (("scores", [p.score for p in points]), ("success rates", [p.success for p in points])):
        if len(set(values)) == 1:
            raise refuse(
                f"{scores!r} against {benchmark!r}: all {what} are {values[0]}",
                possible="values that differ between VLMs",
                todo="Correlate something that tells the VLMs apart.",
            )


def _left_out(name: str, x: Floats, y: Floats) -> LeftOut:
    r = pearson(x, y) if len(x) >= 3 else float("nan")
    return LeftOut(left_out=name, r=None if np.isnan(r) else r, n=len(x))


def _range(left: Sequence[LeftOut]) -> tuple[float, float] | None:
    values = [x.r for x in left if x.r is not None]
    return (min(values), max(values)) if values else None


def _means(values: Floats, family: npt.NDArray[np.str_]) -> Floats:
    return np.array([values[family == f].mean() for f in dict.fromkeys(family)])


def _family_means(x: Floats, y: Floats, family: npt.NDArray[np.str_]) -> FamilyMeans | None:
    mx, my = _means(x, family), _means(y, family)
    if len(mx) < 3 or np.isnan(r := pearson(mx, my)):
        return None
    p, method = permutation_p(mx, my)
    return FamilyMeans(r=r, p=p, p_method=method, families=len(mx))


def _within(x: Floats, y: Floats, family: npt.NDArray[np.str_]) -> float | None:
    """r of the deviations from the family means; none where no family has two VLMs that differ."""
    place = np.array([list(dict.fromkeys(family)).index(f) for f in family])
    r = pearson(x - _means(x, family)[place], y - _means(y, family)[place])
    return None if np.isnan(r) else r


def _errors(values: Sequence[float | None]) -> Floats | None:
    known = [v for v in values if v is not None]
    return np.array(known) if len(known) == len(values) else None


def _noise_range(points: Sequence[Point], level: float) -> tuple[float, float] | None:
    """Quantiles of r when each value moves by its standard error, unknown ones not at all; none where none is known."""
    errors = [(p.score_error, p.success_error) for p in points]
    if all(a is None and b is None for a, b in errors):
        return None
    generator = np.random.default_rng(SEED)
    moved: list[Floats] = []
    for values, known in (
        ([p.score for p in points], [a or 0.0 for a, _ in errors]),
        ([p.success for p in points], [b or 0.0 for _, b in errors]),
    ):
        drawn = np.array(values) + generator.standard_normal((NOISE_DRAWS, len(points))) * np.array(known)
        moved.append(drawn - drawn.mean(axis=1, keepdims=True))
    dx, dy = moved
    r = (dx * dy).sum(axis=1) / np.sqrt((dx**2).sum(axis=1) * (dy**2).sum(axis=1))
    low, high = np.quantile(r, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _corrected(r: float, *reliabilities: float | None) -> float | None:
    """Spearman's correction for attenuation, cut at -1 and 1; none where no reliability is known or one is 0."""
    known = [v for v in reliabilities if v is not None]
    if not known or min(known) == 0:
        return None
    return float(np.clip(r / np.sqrt(np.prod(known)), -1, 1))


def _predictions(
    x: Floats, y: Floats, family: npt.NDArray[np.str_], limits: tuple[float, float] | None, level: float
) -> list[Prediction]:
    """At the lowest, the mean and the highest score; from VLMs as independent, and from family means where 3 exist."""
    out: list[Prediction] = []
    for score in (float(x.min()), float(x.mean()), float(x.max())):
        out.append(_predict(x, y, score, limits, level, f"{len(x)} VLMs as independent"))
        mx, my = _means(x, family), _means(y, family)
        if len(mx) >= 3 and np.ptp(mx) > 0:
            out.append(_predict(mx, my, score, limits, level, f"a new family, from {len(mx)} family means"))
    return out


def _predict(
    x: Floats, y: Floats, score: float, limits: tuple[float, float] | None, level: float, basis: str
) -> Prediction:
    """The prediction interval of a straight line fitted by least squares (t with n - 2 degrees of freedom)."""
    n, spread = len(x), float(((x - x.mean()) ** 2).sum())
    slope, intercept = np.polyfit(x, y, 1)
    variance = float(((y - slope * x - intercept) ** 2).sum()) / (n - 2)
    middle = float(slope * score + intercept)
    reach = stats.t.ppf((1 + level) / 2, n - 2) * np.sqrt(variance * (1 + 1 / n + (score - x.mean()) ** 2 / spread))
    least, most = limits or (-np.inf, np.inf)
    low, high = (float(np.clip(v, least, most)) for v in (middle - reach, middle + reach))
    return Prediction(score=score, success=middle, low=low, high=high, basis=basis)
