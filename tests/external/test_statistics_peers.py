"""Our own formulas against scipy and statsmodels, where these have the same thing for one study at a time."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import integrate, stats
from statsmodels.formula.api import ols
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.power import TTestIndPower
from statsmodels.stats.proportion import proportion_confint

from vlm4vla.study.intervals import chains, mcnemar, score
from vlm4vla.study.multiplicity import benjamini_hochberg
from vlm4vla.study.power import Design
from vlm4vla.study.retrained import Contrast, differences
from vlm4vla.study.sequential import e_values
from vlm4vla.study.simulated import Arm, draw
from vlm4vla.study.spread import brown_forsythe, spread


def made(seed: int, arms: int = 2, seeds: int = 5) -> np.ndarray:
    return draw(np.random.default_rng(seed), 1, [Arm(0.3, 0.8)] * arms, seeds, 3, 20)[0][0]


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_seeds_alone_are_students_and_welchs_tests(seed: int, equal: bool) -> None:
    y = made(seed)
    s = spread(list(np.moveaxis(y, -2, 0)))
    found = differences(s, [0], [1], "pooled" if equal else "separate")
    seeds_alone = Contrast(found.value, found.ways[:1])
    theirs = stats.ttest_ind(*y.mean(axis=(-2, -1)), equal_var=equal)
    limits = theirs.confidence_interval(0.95)
    assert seeds_alone.p_value()[0] == pytest.approx(theirs.pvalue, rel=2e-3)  # half an episode on either side
    assert 2 * seeds_alone.half_width(0.95)[0] == pytest.approx(limits.high - limits.low, rel=2e-3)


def test_noise_is_the_residual_of_a_two_way_analysis_of_variance() -> None:
    y = made(3)
    s = spread(list(np.moveaxis(y, -2, 0)))
    residual = 0.0
    for t in range(3):
        table = pd.DataFrame(
            [(y[0, k, t, i], k, i) for k in range(5) for i in range(20)], columns=["y", "run", "start"]
        )
        table["y"] = table["y"].astype(float)
        residual += sm.stats.anova_lm(ols("y ~ C(run) + C(start)", table).fit())["mean_sq"]["Residual"]
    assert s.noise[0] == pytest.approx(residual / (5 * 20) / 9)


def test_brown_forsythe_is_scipys_levene_about_medians() -> None:
    for seed in range(10):
        means = made(seed, arms=4).mean(axis=(-2, -1))
        assert brown_forsythe(means, 1e-9) == pytest.approx(stats.levene(*means, center="median").pvalue)


def test_score_interval_is_wilsons() -> None:
    for k, n in ((0, 20), (3, 20), (20, 20), (81, 263)):
        z = np.array(stats.norm.ppf(0.975))
        assert score(np.array(k / n), np.array(1 / n), z) == pytest.approx(
            proportion_confint(k, n, method="wilson"), abs=1e-12
        )


def test_exact_mcnemar_is_statsmodels() -> None:
    for a, b in ((0, 0), (1, 8), (10, 2), (7, 7), (30, 12)):
        assert mcnemar(a, b) == pytest.approx(their_mcnemar([[5, a], [b, 5]], exact=True).pvalue)


def test_benjamini_hochberg_is_scipys() -> None:
    p = np.random.default_rng(1).random(12) ** 2
    assert benjamini_hochberg(p.tolist()) == pytest.approx(stats.false_discovery_control(p).tolist())


def test_power_of_two_arms_is_statsmodels() -> None:
    theirs = TTestIndPower()
    for seeds, difference in ((2, 0.2), (3, 0.12), (5, 0.08), (29, 0.03)):
        expected = theirs.power(difference / 0.04, seeds, 0.05)
        assert Design(0.04).power(seeds, difference) == pytest.approx(expected, abs=1e-6)
    assert Design(0.04).seeds(0.03) == np.ceil(theirs.solve_power(0.75, power=0.8, alpha=0.05))


def test_power_is_that_of_a_normal_over_a_chi() -> None:
    """Also where scipy's noncentral t gives up, far from the limit: power is the mean over the variance's estimates."""
    quantiles = (np.arange(20_000) + 0.5) / 20_000
    for seeds, arms in ((2, 2), (2, 3), (3, 2), (6, 9), (40, 2)):
        df = arms * (seeds - 1)
        root = np.sqrt(stats.chi2.ppf(quantiles, df) / df)
        for alpha in (0.05, 0.05 / 36):
            limit = stats.t.ppf(1 - alpha / 2, df) * root
            for away in np.linspace(0, 20, 41):
                expected = np.mean(stats.norm.sf(limit - away) + stats.norm.cdf(-limit - away))
                found = Design(0.04, arms, alpha).power(seeds, away * 0.04 * (2 / seeds) ** 0.5)
                assert found == pytest.approx(expected, abs=1e-4)


def test_e_values_are_the_mixture_of_bets() -> None:
    d = np.array([1, 1, 0, -1, 1, 1, 1, -1])
    a, b = int((d > 0).sum()), int((d < 0).sum())
    prior = stats.beta(0.5, 0.5).pdf
    expected, _ = integrate.quad(lambda p: (2 * p) ** a * (2 * (1 - p)) ** b * prior(p), 0, 1)
    assert e_values(d)[-1] == pytest.approx(expected, rel=1e-6)


def test_chains_agree_with_cluster_robust_regression() -> None:
    generator = np.random.default_rng(2)
    states = np.arange(1000) % 192
    luck = generator.standard_normal(192)[states]
    lengths = np.cumprod(generator.random((1000, 5)) < 1 / (1 + np.exp(-1 - luck))[:, None], axis=1).sum(axis=1)
    fit = sm.OLS(lengths, np.ones(1000)).fit(cov_type="cluster", cov_kwds={"groups": states})
    found = chains(lengths, states)["average"]
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(fit.bse[0], rel=0.05)
    naive = lengths.std(ddof=1) / 1000**0.5
    assert fit.bse[0] > 1.2 * naive
