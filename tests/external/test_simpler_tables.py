"""Correlation, rank violation and their tests beside published figures and beside scipy.

SIMPLER's Bridge tables (simpler-env/SimplerEnv at 2cbc925, ``simpler_env/utils/metrics.py``) have Pearson's r and MMRV
of .827 / 0 (spoon), .571 / .111 (carrot), 1.0 / 0 (cube) and .989 / 0 (eggplant) over RT-1-X, Octo-Base, Octo-Small.
"""

import numpy as np
import pytest
from scipy import stats

from vlm4vla import published as data
from vlm4vla.report.correlation import Point
from vlm4vla.study.correlate import fisher_interval, homogeneity, kendall, mmrv, pearson
from vlm4vla.study.permutation import kendall_p, permutation_p
from vlm4vla.study.published import agreement

TABLE = {"spoon": (0.827, 0.0), "carrot": (0.571, 0.111), "cube": (1.0, 0.0), "eggplant": (0.989, 0.0)}
X = np.array([0.1, 0.9, 0.3, 0.5, 0.45, 0.8])
Y = np.array([1.0, 2.0, 2.0, 1.5, 0.5, 3.0])  # with a tie


def test_published_pearson_and_rank_violation() -> None:
    rows = {row.label: row.cells for row in agreement().rows}
    assert len(rows) == 4
    for word, (r, violation) in TABLE.items():
        (cells,) = [cells for label, cells in rows.items() if word in label]
        assert cells[0] is not None and cells[1] is not None
        assert float(cells[0].text) == pytest.approx(r, abs=0.0006)
        assert float(cells[1].text) == pytest.approx(violation, abs=0.0006)


def test_the_recovered_row_is_the_only_count_that_gives_the_published_r() -> None:
    """RT-1-X in simulation was recovered: no other count out of 24 has the published r in any task."""
    table = data.load("agreement")
    for word, (r, _) in TABLE.items():
        own = [row for row in table.rows if row.key.startswith(word)]
        real = np.array([float(row.cells["real"].printed) for row in own])
        octo = [float(row.cells["simulated"].printed) for row in own[1:]]
        fits = [k for k in range(25) if round(pearson(real, np.array([round(k / 24, 3), *octo])), 3) == r]
        assert own[0].cells["simulated"].kind == "recovered"
        assert fits == [round(24 * float(own[0].cells["simulated"].printed))]


def test_rank_violation_in_the_words_of_its_definition() -> None:
    generator = np.random.default_rng(3)
    for _ in range(50):
        real, simulated = generator.integers(0, 5, (2, 6)) / 5
        worst = []
        for i in range(6):
            wrong = [(simulated[i] < simulated[j]) != (real[i] < real[j]) for j in range(6)]
            worst.append(max([abs(real[i] - real[j]) for j in range(6) if wrong[j]], default=0.0))
        assert mmrv(real, simulated) == pytest.approx(np.mean(worst))


def test_coefficients_and_interval_are_scipys() -> None:
    theirs = stats.pearsonr(X, Y)
    assert pearson(X, Y) == pytest.approx(theirs.statistic)
    assert fisher_interval(pearson(X, Y), len(X), 0.95) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    ranks = stats.rankdata(X), stats.rankdata(Y)
    assert pearson(*ranks) == pytest.approx(stats.spearmanr(X, Y).statistic)
    assert kendall(X, Y) == pytest.approx(stats.kendalltau(X, Y).statistic)


def test_exact_permutations_are_scipys() -> None:
    def theirs(statistic: object) -> float:
        found = stats.permutation_test(
            (X,), statistic, permutation_type="pairings", alternative="greater", n_resamples=np.inf
        )
        return float(found.pvalue)

    assert permutation_p(X, Y)[0] == pytest.approx(theirs(lambda x: abs(stats.pearsonr(x, Y).statistic)))
    assert kendall_p(X, Y) == pytest.approx(theirs(lambda x: abs(stats.kendalltau(x, Y).statistic)))
    untied = np.argsort(Y, kind="stable").argsort().astype(float)
    assert kendall_p(X, untied) == pytest.approx(stats.kendalltau(X, untied, method="exact").pvalue)


def test_homogeneity_is_the_sum_over_binomial_variances() -> None:
    k, n = np.array([5, 9, 14, 7]), np.array([20, 24, 24, 24])
    counts = zip(k.tolist(), n.tolist(), strict=True)
    facts = [{"vlm": "v", "family": "f", "score": 0, "success": a / b, "successes": a, "trials": b} for a, b in counts]
    found = homogeneity([Point.model_validate(fact) for fact in facts])
    pooled = k.sum() / n.sum()
    by_hand = float(np.sum((k - n * pooled) ** 2 / (n * pooled * (1 - pooled))))
    assert found is not None and found.chi2 == pytest.approx(by_hand)
    assert found.p == pytest.approx(stats.chi2.sf(by_hand, 3))
