"""How many seeds: the figures that a study is planned with."""

import pytest

from vlm4vla.study.power import Design, plan, sentences
from vlm4vla.types import UserError


def test_three_points_at_a_retrain_sd_of_four_need_29_runs() -> None:
    found = plan(0.03, 0.04)
    assert found["seeds"] == 29 and 0.8 <= found["power_at_seeds"] < 0.82
    assert Design(0.04).power(28, 0.03) < 0.8


def test_more_episodes_do_not_help_below_the_floor() -> None:
    found = plan(0.03, 0.04, episodes=500)
    counts = [x["seeds"] for x in found["seeds_by_episodes"]]
    assert counts == sorted(counts, reverse=True) and counts[-1] == 29 and found["seeds"] == 38
    assert found["seeds_by_episodes"][-1]["episodes"] is None
    assert plan(0.03, 0.04, episodes=10**7)["seeds"] == 29
    told = " ".join(sentences(found))
    assert "needs 38 training runs per arm (500 episodes each" in told and "29 with any number" in told
    assert "estimand E3" in told


def test_what_few_seeds_can_see() -> None:
    """The simulated figures of the project's facts: 23, 12.5, 8 and 5.5 points."""
    design = Design(0.04)
    for seeds, points in ((2, 23), (3, 12.5), (5, 8), (10, 5.5)):
        assert 100 * design.detectable(seeds) == pytest.approx(points, abs=0.5)
        assert design.power(seeds, design.detectable(seeds)) == pytest.approx(0.8, abs=1e-6)


def test_directions() -> None:
    assert Design(0.04, arms=9).seeds(0.1) < Design(0.04, arms=2).seeds(0.1)  # a pooled variance is better known
    assert Design(0.04, alpha=0.05 / 36).seeds(0.1) > Design(0.04).seeds(0.1)
    assert plan(0.1, 0.04, comparisons=36)["seeds"] == Design(0.04, alpha=0.05 / 36).seeds(0.1)
    needed = [x["seeds"] for x in plan(0.03)["seeds_by_retrain_sd"]]
    assert needed == sorted(needed) and needed[0] < 5 and needed[-1] > 200
    assert Design(0.01).seeds(0.9) == 2 and Design(0.001).power(5, 0.9) == 1.0
    assert Design(0.04).power(5, -0.1) == pytest.approx(Design(0.04).power(5, 0.1))
    assert Design(0.04).power(5, 0.0) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("ask", "word"),
    [
        (lambda: plan(0.0), "difference of 0.0"),
        (lambda: plan(3.0), "difference of 3.0"),
        (lambda: plan(0.03, 4.0), "retrain SD 4.0"),
        (lambda: plan(0.03, 0.0), "every difference is seen"),
        (lambda: plan(0.03, power=1.0), "power 1.0"),
        (lambda: plan(0.03, arms=1), "1 arms"),
        (lambda: plan(0.03, episodes=0), "0 episodes"),
        (lambda: plan(0.03, comparisons=0), "0 comparisons"),
        (lambda: plan(0.0001, 0.3), "More than 100000 training runs"),
    ],
)
def test_refusals(ask, word: str) -> None:
    with pytest.raises(UserError, match=word):
        ask()
