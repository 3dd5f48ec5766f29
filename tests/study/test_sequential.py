"""The sequential test: fair bets, whenever one stops."""

import numpy as np
import pytest

from vlm4vla.study.sequential import e_values, sequential
from vlm4vla.types import UserError

ORDER = [("t", k) for k in range(60)]


def test_every_step_is_a_fair_bet() -> None:
    """From any history, the mean of the next e-value over a fair coin is the present one."""
    for history in ([], [1], [-1, -1], [1, 0, 1, 1, -1]):
        now = e_values(np.array(history))[-1] if history else 1.0
        after = [e_values(np.array([*history, d]))[-1] for d in (1, -1)]
        assert np.mean(after) == pytest.approx(now)


def test_a_true_null_is_seldom_rejected_however_often_one_looks() -> None:
    generator = np.random.default_rng(5)
    d = generator.choice([-1, 0, 1], p=[0.2, 0.6, 0.2], size=(4000, 600))
    assert 0.005 < (e_values(d).max(axis=1) >= 20).mean() <= 0.05
    better = generator.choice([-1, 0, 1], p=[0.1, 0.6, 0.3], size=(500, 600))
    assert (e_values(better).max(axis=1) >= 20).mean() > 0.95


def test_it_stops_and_says_for_whom() -> None:
    seen = [(start, True, False) for start in ORDER[:12]]
    found = sequential(seen, ORDER, "a", "b")
    assert found.finished and found.better == "a" and 5 <= found.stopped_at <= 9 and found.p_value < 0.05
    assert found.estimand == "E2" and (found.pairs, found.n_max, found.only_a, found.only_b) == (12, 60, 12, 0)
    mirrored = sequential([(s, b, a) for s, a, b in seen], ORDER, "a", "b")
    assert mirrored.better == "b" and mirrored.e_value == found.e_value
    none = sequential([], ORDER, "a", "b")
    assert (none.e_value, none.p_value, none.finished, none.better) == (1.0, 1.0, False, None)
    full = sequential([(start, True, True) for start in ORDER], ORDER, "a", "b")
    assert full.finished and full.stopped_at is None and full.p_value == 1.0


def test_the_order_is_declared() -> None:
    with pytest.raises(UserError, match=r"Pair 2 is \('t', 2\).*Possible: \('t', 1\)"):
        sequential([(ORDER[0], True, False), (ORDER[2], True, False)], ORDER, "a", "b")
    with pytest.raises(UserError, match="at most 2 pairs"):
        sequential([(start, True, False) for start in ORDER[:3]], ORDER[:2], "a", "b")
    with pytest.raises(UserError, match="2 starts, 1 different"):
        sequential([], [ORDER[0], ORDER[0]], "a", "b")
