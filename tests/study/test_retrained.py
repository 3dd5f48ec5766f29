"""E3: what holds for a recipe trained again. Coverage over a grid is in test_simulate."""

import itertools

import numpy as np
import pytest
from scipy import stats
from study_rows import rows, study

from vlm4vla.study import retrained
from vlm4vla.study.retrained import compare_recipes, display, recipes
from vlm4vla.study.simulated import Arm, draw
from vlm4vla.study.spread import spread
from vlm4vla.study.successes import Successes, successes
from vlm4vla.types import UserError


def made(seed: int, arms: list[Arm], seeds: int = 3, tasks: int = 4, starts: int = 24) -> Successes:
    return study(draw(np.random.default_rng(seed), 1, arms, seeds, tasks, starts)[0][0])


VARIED = [Arm(0.4, 0.6), Arm(-0.3, 0.6), Arm(-2.0, 0.6)]


def test_the_sums_of_squares_against_plain_loops() -> None:
    data = made(1, VARIED)
    s = spread(data.outcomes)
    y = np.stack(data.outcomes, axis=2).astype(float)  # arm, seed, task, start
    _, seeds, tasks, starts = y.shape
    for a, b in itertools.product(range(3), repeat=2):
        u, v = y[a].mean(axis=0), y[b].mean(axis=0)
        covariance = sum(np.cov(u[t], v[t])[0, 1] / starts for t in range(tasks)) / tasks**2
        assert s.starts[a, b] == pytest.approx(covariance)
    for a in range(3):
        assert s.retrain[a] == pytest.approx(np.var(y[a].mean(axis=(1, 2)), ddof=1) / seeds)
        left = 0.0
        for t in range(tasks):
            z = y[a, :, t]
            residual = z - z.mean(axis=0) - z.mean(axis=1, keepdims=True) + z.mean()
            left += (residual**2).sum() / ((seeds - 1) * (starts - 1)) / (seeds * starts)
        assert s.noise[a] == pytest.approx(left / tasks**2)
    assert np.allclose(s.means, y.mean(axis=(1, 2, 3)))


def test_tasks_of_unequal_size_weigh_the_same() -> None:
    generator = np.random.default_rng(2)
    outcomes = (generator.random((2, 3, 10)) < 0.9, generator.random((2, 3, 40)) < 0.1)
    found = recipes(Successes("bench@1", ("a", "b"), ("x", "y"), outcomes))
    assert found[0].value == pytest.approx((outcomes[0][0].mean() + outcomes[1][0].mean()) / 2)
    assert "2 tasks as fixed strata" in found[0].method


def test_many_studies_at_once_are_the_same_as_one_by_one() -> None:
    y, _ = draw(np.random.default_rng(4), 6, VARIED, 3, 4, 24)
    s = spread(list(np.moveaxis(y, -2, 0)))
    low, high = retrained.mean_interval(s, 0.95)
    found = retrained.differences(s, [0, 0, 1], [1, 2, 2])
    for k in range(6):
        one, pairs = recipes(study(y[k])), compare_recipes(study(y[k]))
        assert [r.low for r in one] == pytest.approx(low[k]) and [r.high for r in one] == pytest.approx(high[k])
        assert [p.value for p in pairs] == pytest.approx(found.value[k].tolist())
        assert [(p.high - p.low) / 2 for p in pairs] == pytest.approx(found.half_width(0.95)[k].tolist())
        assert [p.p_value for p in pairs] == pytest.approx(found.p_value()[k].tolist())


@pytest.mark.parametrize("seed", range(20))
def test_never_narrower_than_the_pooled_checkpoints_or_than_t_over_seeds(seed: int) -> None:
    """On plain numbers: retraining without any spread leaves E2, and starts without any leave t over seeds."""
    data = made(seed, VARIED, seeds=2 + seed % 3)
    s = spread(data.outcomes)
    y = np.stack(data.outcomes, axis=2).astype(float)
    for k, (i, j) in enumerate(itertools.combinations(range(3), 2)):
        found = compare_recipes(data, variances="pooled")[k]
        per_start = y[i].mean(axis=0) - y[j].mean(axis=0)
        e2 = np.sqrt(sum(np.var(d, ddof=1) / len(d) for d in per_start)) / len(per_start)
        t3 = stats.t.ppf(0.975, 3 * (s.seeds - 1)) * np.sqrt(2 * s.retrain.mean())
        assert (found.high - found.low) / 2 >= max(1.96 * e2, t3)
        assert found.p_value >= 2 * stats.norm.sf(abs(found.value) / e2) - 1e-9


def test_p_values_and_intervals_agree() -> None:
    for seed in range(40):
        for found in compare_recipes(made(seed, VARIED), bounds=(-0.3, 0.3)):
            assert (found.p_value <= 0.05) == (found.low > 0 or found.high < 0)
        for found in compare_recipes(made(seed, VARIED), bounds=(-0.3, 0.3), level=0.9):
            assert (found.equivalence_p <= 0.05) == (found.low > -0.3 and found.high < 0.3)


def test_the_standard_error_is_that_of_studies_made_again() -> None:
    """Of many studies with four arms and two seeds; the interval over a normal quantile would say a third more."""
    y, _ = draw(np.random.default_rng(0), 600, [Arm(x, 0.4) for x in (0.4, 0.0, -0.3, -0.6)], 2, 4, 24)
    s = spread(list(np.moveaxis(y, -2, 0)))
    error, (low, high) = retrained.means(s).standard_error(), retrained.mean_interval(s, 0.95)
    true = (s.means - s.means.mean(axis=0)).std()
    assert np.sqrt((error**2).mean()) == pytest.approx(true, rel=0.1)
    assert np.sqrt(((high - low) ** 2).mean()) / 2 / stats.norm.ppf(0.975) > 1.3 * true
    assert [r.standard_error for r in recipes(study(y[0]))] == pytest.approx(error[0])


def test_equivalence_makes_no_effect_a_result() -> None:
    alike = [Arm(0.5, 0.05)] * 2
    data = made(3, alike, seeds=8, tasks=10, starts=50)
    (wide,) = compare_recipes(data, bounds=(-0.1, 0.1))
    (narrow,) = compare_recipes(data, bounds=(-0.01, 0.01))
    assert wide.p_value > 0.05 and wide.equivalence_p < 0.01 and narrow.equivalence_p > 0.05
    assert compare_recipes(data)[0].equivalence_p is None
    with pytest.raises(UserError, match="do not hold 0 between them"):
        compare_recipes(data, bounds=(0.01, 0.1))


def test_swapping_the_arms_changes_the_sign_only() -> None:
    data = made(5, VARIED[:2])
    back = Successes("bench@1", data.arms[::-1], data.tasks, tuple(y[::-1] for y in data.outcomes))
    (one,), (other,) = compare_recipes(data), compare_recipes(back)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
    assert one.p_value == pytest.approx(other.p_value) and (one.a, one.b) == (other.b, other.a)


def test_seeds_are_not_paired_across_arms() -> None:
    data = made(6, VARIED[:2], seeds=5)
    order = [3, 0, 4, 1, 2]
    turned = tuple(np.stack([y[0], y[1][order]]) for y in data.outcomes)
    (one,), (other,) = (compare_recipes(d) for d in (data, Successes("bench@1", data.arms, data.tasks, turned)))
    assert (one.low, one.high, one.p_value) == pytest.approx((other.low, other.high, other.p_value))


def test_one_seed_is_refused_and_two_are_a_pilot() -> None:
    for ask in (recipes, compare_recipes):
        with pytest.raises(UserError, match=r"one training run.*Possible: two runs.*Train further seeds"):
            ask(made(7, VARIED, seeds=1))
        assert all("pilot" in found.caution for found in ask(made(7, VARIED, seeds=2)))
        assert all(found.estimand == "E3" for found in ask(made(7, VARIED, seeds=5)))
    assert all(found.caution is None for found in compare_recipes(made(7, VARIED, seeds=5)))
    with pytest.raises(UserError, match="one start only"):
        recipes(made(7, VARIED, starts=1))
    with pytest.raises(UserError, match="One arm"):
        compare_recipes(made(7, VARIED[:1]))


def test_a_rate_near_the_edge_is_marked_while_seeds_are_few() -> None:
    low = [Arm(-4.0, 0.3)] * 2
    assert all("within 10 points of 0 or 1" in r.caution for r in recipes(made(8, low, seeds=3)))
    assert all(r.caution is None for r in recipes(made(8, low, seeds=6)))
    assert all(r.caution is None for r in recipes(made(8, [Arm(0.0, 0.3)] * 2, seeds=3)))


def test_nothing_but_failures_is_no_certainty() -> None:
    nothing = study(np.zeros((2, 3, 4, 24), dtype=bool))
    for r in recipes(nothing):
        assert r.value == r.low == 0 and 0.03 < r.high < 0.05  # starts counted, not episodes: 96, not 288
    (d,) = compare_recipes(nothing)
    assert d.value == 0 and d.p_value == 1 and 0.005 < d.high == -d.low < 0.02
    everything = recipes(study(np.ones((2, 3, 4, 24), dtype=bool)))
    assert everything[0].high == 1 and everything[0].low == pytest.approx(1 - recipes(nothing)[0].high)


def test_intervals_stay_within_zero_and_one() -> None:
    for seed in range(20):
        for r in recipes(made(seed, [Arm(-3.5, 1.0), Arm(3.5, 1.0)], seeds=2)):
            assert 0 <= r.low <= r.value <= r.high <= 1


def test_the_rule_keeps_variances_apart_where_they_clearly_differ() -> None:
    unequal, equal = [Arm(0.0, 0.02), Arm(0.0, 1.5)], [Arm(0.0, 0.5)] * 2
    kept = [bool(retrained.apart(spread(made(k, unequal, seeds=10).outcomes), "rule")) for k in range(40)]
    alike = [bool(retrained.apart(spread(made(k, equal, seeds=10).outcomes), "rule")) for k in range(40)]
    assert sum(kept) > 30 and sum(alike) <= 6
    data = made(int(np.argmax(kept)), unequal, seeds=10)
    steady, wild = recipes(data)
    assert "Welch" in steady.method and "Welch" in compare_recipes(data)[0].method
    assert wild.high - wild.low > 1.5 * (steady.high - steady.low)
    pooled = recipes(data, variances="pooled")
    assert (
        "pooled over 2 arms (18 degrees" in pooled[0].method
        and pooled[0].high - pooled[0].low > steady.high - steady.low
    )
    assert not retrained.apart(spread(made(0, unequal, seeds=2).outcomes), "rule")


def test_letters_of_a_study() -> None:
    arms = [Arm(-2.5, 0.1), Arm(2.0, 0.1), Arm(2.0, 0.1)]
    data = made(9, arms, seeds=5, tasks=10, starts=50)
    found = display(recipes(data), compare_recipes(data))
    assert found["arm 0"] == "b" and found["arm 1"] == found["arm 2"] == "a"


def test_from_rows() -> None:
    generator = np.random.default_rng(10)
    arms = {
        arm: [rows(f"{arm}{s}", {t: (generator.random(20) < p).tolist() for t in "xy"}) for s in range(3)]
        for arm, p in (("good", 0.8), ("bad", 0.3))
    }
    (found,) = compare_recipes(successes(arms))
    assert (found.a, found.b) == ("good", "bad") and 0.2 < found.low < found.value < found.high < 0.8
