"""Estimates and comparisons: known values, refusals, and what the intervals cover."""

import itertools
import random

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from vlm4vla.records import EpisodeRow
from vlm4vla.study.compare import adjusted, bootstrap_interval, compare, estimates, reading
from vlm4vla.study.multiplicity import holm
from vlm4vla.types import UserError


def make(outcomes: dict[str, list[bool]], arm: str = "a", **changes: object) -> list[EpisodeRow]:
    rows = []
    for k, (task, values) in enumerate(outcomes.items()):
        for i, success in enumerate(values):
            facts = {
                "run": f"run-{arm}", "arm": arm, "control": None, "benchmark": "bench@1", "task": task, "episode": i,
                "seed": 1000 * k + i, "success": bool(success), "steps": 10, "first_success_step": None,
                "failure": None, "video": None, "wall_s": 1.0,
            }  # fmt: skip
            rows.append(EpisodeRow.model_validate(facts | changes))
    return rows


def counted(successes: int, n: int) -> list[bool]:
    return [True] * successes + [False] * (n - successes)


def test_wilson_of_newcombe_1998_table_1() -> None:
    (task, mean) = estimates(make({"t": counted(81, 263)}))
    assert (task.task, mean.task) == ("t", None)
    assert (round(task.low, 4), round(task.high, 4)) == (0.2553, 0.3662)
    assert (mean.low, mean.high) == (task.low, task.high)
    assert task.estimand == "E2" and task.method == "Wilson"


def test_mean_over_equal_tasks_is_the_pooled_wilson_and_says_so() -> None:
    *_, mean = estimates(make({"x": counted(20, 25), "y": counted(5, 25), "z": counted(21, 25)}))
    low, high = proportion_confint(46, 75, method="wilson")
    assert (mean.successes, mean.episodes) == (46, 75)
    assert (mean.low, mean.high) == pytest.approx((low, high))
    assert "equal weight" in mean.method and "of 25 episodes pooled" in mean.method


def test_mean_over_unequal_tasks_weights_tasks_not_episodes() -> None:
    *_, mean = estimates(make({"x": counted(10, 10), "y": counted(0, 40)}))
    assert mean.rate == 0.5  # pooled would be 0.2
    assert "32.0 effective episodes" in mean.method  # 2^2 / (1/10 + 1/40)
    assert (mean.low, mean.high) == pytest.approx(proportion_confint(16, 32, method="wilson"))


def test_estimates_keep_the_order_and_separate_controls() -> None:
    rows = make({"x": counted(3, 4), "y": counted(1, 4)}) + make(
        {"x": counted(0, 2), "y": [True, False]}, control="blank"
    )
    found = [(e.arm, e.control, e.task, e.successes, e.episodes) for e in estimates(rows)]
    assert found == [
        ("a", None, "x", 3, 4), ("a", None, "y", 1, 4), ("a", None, None, 4, 8),
        ("a", "blank", "x", 0, 2), ("a", "blank", "y", 1, 2), ("a", "blank", None, 1, 4),
    ]  # fmt: skip


def test_rates_at_the_edge_stay_within_zero_and_one() -> None:
    for values in ([True] * 12, [False] * 12):
        for e in estimates(make({"x": values, "y": values})):
            assert 0 <= e.low <= e.rate <= e.high <= 1 and e.high - e.low > 0.1


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ([], "no episode rows"),
        (make({"x": [True]}) + make({"x": [True]}), "twice"),
        (make({"x": [True]}) + make({"y": [True]}, run="run-second"), "more than one run"),
        (make({"x": [True], "y": [True]}) + make({"x": [True]}, arm="b"), "'b' has no rows of y"),
    ],
)
def test_estimates_refuse(rows: list[EpisodeRow], word: str) -> None:
    with pytest.raises(UserError, match=word):
        estimates(rows)


def test_versions_of_a_benchmark_are_never_pooled() -> None:
    rows = make({"x": counted(3, 4)}) + make({"x": counted(1, 4)}, arm="b", benchmark="bench@2")
    assert {(e.benchmark, e.successes) for e in estimates(rows)} == {("bench@1", 3), ("bench@2", 1)}
    with pytest.raises(UserError, match=r"bench@1.*bench@2"):
        compare(rows[:4], rows[4:], "a", "b")
    with pytest.raises(UserError, match="more than one benchmark"):
        compare([r.model_copy(update={"arm": "a", "run": "run-a"}) for r in rows], rows[:4], "a", "b")


def test_mcnemar_and_difference_against_a_hand_calculation() -> None:
    a = make({"t": [True] * 10 + [False] * 2 + [True] * 20 + [False] * 8})
    b = make({"t": [False] * 10 + [True] * 2 + [True] * 20 + [False] * 8}, arm="b")
    c = compare(a, b, "a", "b")
    assert (c.pairs, c.only_a, c.only_b) == (40, 10, 2)
    assert c.difference == pytest.approx(0.2)
    assert c.p_value == pytest.approx(stats.binomtest(2, 12).pvalue)  # 0.0386
    assert c.low < 0.2 < c.high and c.estimand == "E2" and c.p_method == "exact McNemar"


def test_swapping_the_sides_changes_the_sign_only() -> None:
    a, b = make({"t": counted(17, 20), "u": counted(9, 20)}), make({"t": counted(11, 20), "u": counted(8, 20)}, arm="b")
    one, other = compare(a, b, "a", "b"), compare(b, a, "b", "a")
    assert one.difference == -other.difference and one.p_value == other.p_value
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=0.026)  # one episode of 40


def test_row_order_does_not_matter_and_the_seed_does_fix_the_digits() -> None:
    a, b = make({"t": counted(17, 20), "u": counted(9, 20)}), make({"t": counted(11, 20), "u": counted(8, 20)}, arm="b")
    first = compare(a, b, "a", "b")
    shuffled_a, shuffled_b = random.Random(1).sample(a, len(a)), random.Random(2).sample(b, len(b))
    assert compare(shuffled_a, shuffled_b, "a", "b") == first
    assert compare(a, b, "a", "b", seed=1).interval_method != first.interval_method


def test_tasks_are_strata_of_equal_weight() -> None:
    a = make({"t": counted(10, 10), "u": counted(0, 40)})
    b = make({"t": counted(0, 10), "u": counted(0, 40)}, arm="b")
    c = compare(a, b, "a", "b")
    assert c.difference == 0.5  # pooled would be 0.2
    pooled_width = np.subtract(*bootstrap_interval(np.array([[0, 40, 10]]), level=0.95, resamples=4000, seed=0))
    assert c.high - c.low < abs(pooled_width)  # the spread between tasks is no noise


def test_no_discordant_pair_is_no_certainty() -> None:
    a, b = make({"t": counted(25, 25)}), make({"t": counted(25, 25)}, arm="b")
    c = compare(a, b, "a", "b")
    assert c.p_value == 1 and c.difference == 0 and c.low < -0.01 and c.high > 0.01
    floor = compare(a, make({"t": counted(0, 25)}, arm="c"), "a", "c")
    assert floor.difference == floor.high == 1 and 0.75 < floor.low < 0.99


def test_starts_must_match() -> None:
    a = make({"t": counted(5, 8)})
    other_seed = [r.model_copy(update={"arm": "b", "seed": r.seed + (r.episode == 3)}) for r in a]
    with pytest.raises(UserError, match=r"'t' episode 3 has seed 3 for 'a' and 4 for 'b'"):
        compare(a, other_seed, "a", "b")
    fewer = make({"t": counted(2, 4)}, arm="b")
    with pytest.raises(UserError, match=r"8 starts.*has 4, 4 are shared"):
        compare(a, fewer, "a", "b")
    with pytest.raises(UserError, match="0 are shared"):
        compare(a, make({"u": counted(2, 8)}, arm="b"), "a", "b")


def test_a_control_on_fewer_episodes_is_paired_on_the_shared_starts() -> None:
    a, control = make({"t": counted(5, 8)}), make({"t": counted(1, 4)}, control="image-blank")
    c = compare(a, control, "a", "a [image-blank]")
    assert (c.pairs, c.only_a, c.only_b) == (4, 3, 0)


def test_two_training_runs_are_not_one_side() -> None:
    mixed = make({"t": counted(5, 8)}) + make({"u": counted(5, 8)}, run="run-again")
    with pytest.raises(UserError, match="more than one run: run-a, run-again"):
        compare(mixed, mixed, "a", "b")


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == [] and holm([0.2]) == [0.2]
    a, b = make({"t": counted(17, 20)}), make({"t": counted(5, 20)}, arm="b")
    raw = compare(a, b, "a", "b")
    one, two = adjusted([raw, raw])
    assert one.p_value == pytest.approx(2 * raw.p_value) and one.p_method == "exact McNemar, Holm over 2"
    assert (two.low, two.high) == (raw.low, raw.high)
    assert one.p_bh == pytest.approx(raw.p_value)  # two alike: the share of false claims is that of either
    assert adjusted([raw]) == [raw.model_copy(update={"p_bh": raw.p_value})]


def test_reading_says_what_is_not_known() -> None:
    a, b = make({"t": counted(20, 20)}), make({"t": counted(5, 20)}, arm="b")
    text = reading(compare(a, b, "full", "frozen"))
    assert text.startswith("Full did better than frozen (+75.0 points, 95% interval ")
    assert "with one training run on either side it says nothing about retraining" in text
    near = reading(compare(a, make({"t": counted(18, 20)}, arm="b"), "full", "frozen"))
    assert "cannot be told apart" in near and "does not show that they are equal" in near


def test_a_corrected_p_value_can_take_a_verdict_back() -> None:
    raw = compare(make({"t": counted(7, 20)}), make({"t": counted(0, 20)}, arm="b"), "a", "b")
    assert raw.low > 0 and "did better" in reading(raw)
    assert "cannot be told apart" in reading(adjusted([raw] * 5)[0])


# --- what the procedures do when used again and again ---------------------------------------------------------------


def test_wilson_covers_95_percent_on_average() -> None:
    """Exact, by summing the binomial distribution: mean coverage near nominal, nowhere far below."""
    chances = np.linspace(0.02, 0.98, 97)
    for n in (25, 75):
        ends = [(e.low, e.high) for e in (estimates(make({"t": counted(k, n)}))[0] for k in range(n + 1))]
        covered = np.array([[low <= p <= high for low, high in ends] for p in chances])
        weight = np.array([stats.binom.pmf(np.arange(n + 1), n, p) for p in chances])
        coverage = (covered * weight).sum(axis=1)
        assert 0.945 < coverage.mean() < 0.965
        assert coverage.min() > 0.88


def pair_counts(generator: np.random.Generator, a: list[float], b: list[float], n: int) -> np.ndarray:
    """Per task the pairs with difference -1, 0, +1, when starts of the two checkpoints share part of their luck."""
    counts = []
    for p, q in zip(a, b, strict=True):
        u = generator.random(n)
        v = np.where(generator.random(n) < 0.4, u, generator.random(n))
        difference = (u < p).astype(int) - (v < q)
        counts.append([np.sum(difference == d) for d in (-1, 0, 1)])
    return np.array(counts)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([0.5, 0.6, 0.4], [0.5, 0.5, 0.3]),
        ([0.95, 0.9, 0.98], [0.9, 0.8, 0.98]),
        ([0.1, 0.02, 0.05], [0.02, 0.02, 0.02]),
        ([1.0, 1.0, 1.0], [0.02, 0.02, 0.02]),
    ],
)
@pytest.mark.parametrize("n", [10, 25])
def test_bootstrap_covers_about_95_percent(a: list[float], b: list[float], n: int) -> None:
    """300 studies of two fixed checkpoints; without the pseudo-pairs the last two cases cover 42 to 81 % at n = 10."""
    generator = np.random.default_rng(7)
    truth = float(np.mean(np.subtract(a, b)))
    hits = 0
    for trial in range(300):
        low, high = bootstrap_interval(pair_counts(generator, a, b, n), level=0.95, resamples=1000, seed=trial)
        hits += low - 1e-9 <= truth <= high + 1e-9
    assert 0.92 <= hits / 300 <= 1.0


def test_mcnemar_keeps_its_five_percent() -> None:
    """1500 pairs of equally good checkpoints, through the public function."""
    generator = np.random.default_rng(11)
    rejected = 0
    template = make({"t": [False] * 30, "u": [False] * 30})
    for _ in range(1500):
        draws = {}
        for arm, task in itertools.product("ab", "tu"):
            draws[arm, task] = generator.random(30) < {"t": 0.5, "u": 0.8}[task]
        sides = [
            [r.model_copy(update={"arm": arm, "success": bool(draws[arm, r.task][r.episode])}) for r in template]
            for arm in "ab"
        ]
        rejected += compare(sides[0], sides[1], "a", "b", resamples=10).p_value <= 0.05
    assert 0 < rejected / 1500 <= 0.05
