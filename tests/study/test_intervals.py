"""E1 and E2: known values, edges, and what the intervals cover."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from scipy import stats

from vlm4vla.study.intervals import census, chains, clopper_pearson, mcnemar, wilson
from vlm4vla.types import UserError


def test_a_census_has_no_interval_but_the_spread_of_its_reruns() -> None:
    once = census([[True, True, False, True]])
    assert (once.estimand, once.value, once.low, once.high, once.level) == ("E1", 0.75, 0.75, 0.75, 1.0)
    again = census([[True, True, False, True], [True, False, False, True]])
    assert (again.low, again.value, again.high) == (0.5, 0.625, 0.75) and "2 reruns" in again.method
    with pytest.raises(UserError, match=r"shape \(0,\)"):
        census([])


def test_published_values() -> None:
    w, c = wilson(81, 263), clopper_pearson(81, 263)  # Newcombe 1998, table I
    assert (round(w.low, 4), round(w.high, 4)) == (0.2553, 0.3662)
    assert (round(c.low, 4), round(c.high, 4)) == (0.2527, 0.3676)
    assert w.estimand == c.estimand == "E2"


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
def test_edges(interval) -> None:
    for k in (0, 20):
        found = interval(k, 20)
        assert 0 <= found.low <= found.value <= found.high <= 1 and 0.1 < found.high - found.low < 0.2
    for k, n in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(UserError, match="no proportion"):
            interval(k, n)


def test_clopper_pearson_never_covers_less_than_it_says() -> None:
    n = 24
    ends = [(i.low, i.high) for i in (clopper_pearson(k, n) for k in range(n + 1))]
    for p in np.linspace(0.005, 0.995, 199):
        covered = [low <= p <= high for low, high in ends]
        assert stats.binom.pmf(np.arange(n + 1), n, p) @ covered >= 0.95 - 1e-12


def test_mcnemar_by_counting() -> None:
    """Every split of up to 14 discordant pairs, by fractions."""
    for total in range(15):
        for a in range(total + 1):
            below = sum(Fraction(comb(total, k), 2**total) for k in range(min(a, total - a) + 1))
            at = Fraction(comb(total, a), 2**total)
            assert mcnemar(a, total - a) == pytest.approx(min(float(2 * below), 1.0))
            assert mcnemar(a, total - a, mid=True) == pytest.approx(min(float(2 * below - at), 1.0))
    assert mcnemar([10, 5], [2, 5]).shape == (2,)


def made_chains(generator: np.random.Generator, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """1000 chains over 192 initial states that share part of their luck."""
    states = np.arange(1000) % 192
    luck = spread * generator.standard_normal(192)[states]
    chance = 1 / (1 + np.exp(-(1.2 + luck)))
    solved = generator.random((1000, 5)) < chance[:, None]
    return np.cumprod(solved, axis=1).sum(axis=1), states


def test_chains_are_resampled_by_their_initial_state() -> None:
    generator = np.random.default_rng(3)
    x = generator.standard_normal(200_000)
    chance = 1 / (1 + np.exp(-(1.2 + 1.5 * x)))
    truth = sum(float(np.mean(chance**k)) for k in range(1, 6))
    hits = naive = 0
    for trial in range(200):
        lengths, states = made_chains(generator, 1.5)
        found = chains(lengths, states, resamples=400, seed=trial)
        hits += found["average"].low <= truth <= found["average"].high
        half = 1.96 * lengths.std(ddof=1) / 1000**0.5
        naive += abs(lengths.mean() - truth) <= half
    assert 0.91 <= hits / 200 <= 0.985
    assert naive / 200 < 0.85  # as if the 1000 chains were independent


def test_rates_in_a_row() -> None:
    lengths, states = np.array([5, 5, 3, 0, 1, 2, 5, 4]), np.array([0, 0, 1, 1, 2, 2, 3, 3])
    found = chains(lengths, states)
    assert [found[str(k)].value for k in range(1, 6)] == [7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8]
    assert found["average"].value == pytest.approx(sum(found[str(k)].value for k in range(1, 6)))
    for k in range(1, 6):
        at_least = wilson(int((lengths >= k).sum()), 8)
        assert found[str(k)].low <= at_least.low and found[str(k)].high >= at_least.high
    assert chains(lengths, states) == found  # the seed fixes the digits


def test_chains_that_are_all_alike_are_no_certainty() -> None:
    nothing = chains(np.zeros(12, int), np.arange(12) % 6)
    assert nothing["average"].low == 0 and 1 < nothing["average"].high < 3  # Wilson of 0 of 6, times five
    everything = chains(np.full(12, 5), np.arange(12) % 6)
    assert everything["average"].high == 5 and 2 < everything["average"].low < 4
    with pytest.raises(UserError, match="1 initial states cannot be resampled"):
        chains([1, 2], [0, 0])
    with pytest.raises(UserError, match="from 0 to 6"):
        chains([0, 6], [0, 1])
