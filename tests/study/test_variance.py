"""Where the spread comes from: known components come back, and their intervals cover."""

import numpy as np
import pytest
from study_rows import study

from vlm4vla.study.simulated import calibrate, draw, episode_variance
from vlm4vla.study.variance import split
from vlm4vla.types import UserError


def test_the_retrain_sd_comes_back_and_is_covered() -> None:
    generator = np.random.default_rng(1)
    arm = calibrate(0.5, 0.06, 6)
    y, _ = draw(generator, 300, [arm] * 4, 4, 6, 20)
    found = [{c.source: c for c in split(study(one))} for one in y]
    retrain = [f["retrain"] for f in found]
    assert np.mean([c.sd**2 for c in retrain]) ** 0.5 == pytest.approx(0.06, abs=0.003)
    assert 0.91 <= np.mean([c.low <= 0.06 <= c.high for c in retrain]) <= 0.98
    assert all(c.df == 12 for c in retrain)
    episode = np.mean([f["episode"].sd ** 2 for f in found])
    assert episode == pytest.approx(episode_variance(arm, 6, 20) * 120, rel=0.03)


def test_no_retrain_variance_is_seen_as_little() -> None:
    y, _ = draw(np.random.default_rng(2), 200, [calibrate(0.5, 0.0, 6)] * 3, 3, 6, 20)
    found = [next(c for c in split(study(one)) if c.source == "retrain") for one in y]
    assert np.mean([c.low == 0 for c in found]) > 0.9 and np.mean([c.sd == 0 for c in found]) > 0.3


def test_parts_add_up() -> None:
    y, _ = draw(np.random.default_rng(3), 1, [calibrate(0.5, 0.09, 6)] * 3, 5, 6, 20)
    parts = {c.source: c for c in split(study(y[0]))}
    assert set(parts) == {"retrain", "retrain, all tasks alike", "retrain x task", "task", "start", "episode"}
    assert parts["retrain"].share is None
    assert sum(c.share for c in parts.values() if c.share is not None) == pytest.approx(1)
    alike, by_task = parts["retrain, all tasks alike"].sd ** 2, parts["retrain x task"].sd ** 2
    assert parts["retrain"].sd ** 2 == pytest.approx(alike + by_task / 6)
    assert all(c.low <= c.sd <= c.high for c in parts.values())
    total = sum(c.sd**2 for c in parts.values() if c.share is not None)
    assert total == pytest.approx(np.mean([arm.var() for arm in y[0]]), rel=0.1)


def test_one_task_and_one_seed() -> None:
    y, _ = draw(np.random.default_rng(4), 1, [calibrate(0.5, 0.09, 1)] * 2, 3, 1, 30)
    assert [c.source for c in split(study(y[0]))] == ["retrain", "start", "episode"]
    with pytest.raises(UserError, match="one training run"):
        split(study(y[0][:, :1]))
