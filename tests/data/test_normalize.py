import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_data import spec

from vlm4vla.data.normalize import Normalizer
from vlm4vla.data.statistics import Statistics
from vlm4vla.schemas import NormalizerConfig
from vlm4vla.types import ActionSpec, Dimension, UserError

KINDS = ("limits", "quantile", "min_max", "mean_std")


def data(seed: int, steps: int = 200) -> np.ndarray:
    random = np.random.default_rng(seed)
    scale, shift = random.uniform(0.001, 1, 4), random.uniform(-1, 1, 4)
    actions = np.clip(random.normal(size=(steps, 4)) * scale + shift, -2, 2).astype(np.float32)
    actions[:, 3] = np.sign(actions[:, 3])
    return actions


@given(
    kind=st.sampled_from(KINDS),
    clip=st.sampled_from([None, 0.65, 1.0, 2.5]),
    seed=st.integers(0, 50),
    json_=st.booleans(),
)
def test_there_and_back_is_the_identity_within_the_clip(kind, clip, seed, json_):
    actions = data(seed)
    normalizer = Normalizer.fit(spec(), Statistics.of(actions), NormalizerConfig(kind=kind, clip=clip))
    if json_:
        normalizer = Normalizer.from_dict(json.loads(json.dumps(normalizer.to_dict())))
    targets = normalizer.normalize(actions)
    assert targets.dtype == np.float32 and targets.shape == actions.shape
    back = normalizer.inverse(targets)
    inside = np.abs(targets) < 1 if normalizer.clip is not None else np.ones_like(targets, bool)
    assert np.allclose(back[inside], actions[inside], atol=2e-6)
    assert np.array_equal(back[:, 3], actions[:, 3]) and np.array_equal(targets[:, 3], actions[:, 3])
    if normalizer.clip is not None:
        assert np.abs(targets).max() <= 1
    assert np.allclose(normalizer.normalize(back), targets, atol=1e-4)  # what was cut stays at the cut
    assert inside[:, :3].mean() > 0.3


def test_what_the_kinds_map_where():
    actions = data(3, 1001)
    found = Statistics.of(actions)
    for kind, low, high in (("min_max", found.min, found.max), ("quantile", found.q01, found.q99)):
        normalizer = Normalizer.fit(spec(), found, NormalizerConfig(kind=kind))
        assert np.allclose(normalizer.normalize(np.array(low))[:3], -1, atol=1e-5)
        assert np.allclose(normalizer.normalize(np.array(high))[:3], 1, atol=1e-5)
        assert np.allclose(normalizer.inverse(np.ones(4)), high, atol=1e-5)
    limits = Normalizer.fit(spec(), None, NormalizerConfig(kind="limits"))
    assert np.allclose(limits.normalize([2.0, -2.0, 1.0, -1.0]), [1, -1, 0.5, -1])
    standard = Normalizer.fit(spec(), found, NormalizerConfig(kind="mean_std"))
    targets = standard.normalize(actions)[:, :3]
    assert np.allclose(targets.mean(0), 0, atol=1e-4) and np.allclose(targets.std(0), 1, atol=1e-4)
    assert targets.max() > 1  # nothing is cut


def test_the_papers_clip():
    """reference: clip to +-0.65, rescale to +-1; the policy can never command more than 65 % of the range."""
    normalizer = Normalizer.fit(spec(), None, NormalizerConfig(kind="limits", clip=0.65))
    assert np.allclose(normalizer.normalize([1.3, 2.0, 0.65, 1.0]), [1, 1, 0.5, 1])
    assert np.allclose(normalizer.inverse([1.0, -1.0, 0.5, -1.0]), [1.3, -1.3, 0.65, -1])


numbers = st.floats(-1e3, 1e3, allow_nan=False, width=32)


@given(
    kind=st.sampled_from(KINDS),
    clip=st.one_of(st.none(), st.floats(0.05, 3)),
    rows=st.lists(st.tuples(*[numbers] * 3, st.sampled_from([-1.0, 1.0])), min_size=2, max_size=30),
)
def test_any_action_within_the_clip_comes_back(kind, clip, rows):
    """On any data: there and back changes what was not cut by a part in a hundred thousand of the range at most."""
    bound = 1e3 if kind == "limits" else np.inf
    arm = [Dimension(f"d{i}", "m", "delta", "base", -bound, bound) for i in range(3)]
    wide = ActionSpec((*arm, Dimension("gripper", "", "gripper", "gripper", -1, 1)), "none", 5.0)
    actions = np.array(rows, np.float32)
    try:
        normalizer = Normalizer.fit(wide, Statistics.of(actions), NormalizerConfig(kind=kind, clip=clip))
    except UserError as error:
        assert kind == "quantile" and "quantiles are equal" in str(error)
        return
    targets = normalizer.normalize(actions)
    back = normalizer.inverse(targets)
    scale = np.array(normalizer.scale)
    inside = np.ones(actions.shape, bool) if normalizer.clip is None else np.abs(targets) < 1
    inside[:, scale == 0] = False  # what does not move comes back as its constant
    tolerance = 1e-5 * (scale + np.abs(normalizer.center)) + 1e-12
    assert np.all(np.abs(back.astype(float) - actions)[inside] <= np.broadcast_to(tolerance, actions.shape)[inside])
    assert np.array_equal(back[:, 3], actions[:, 3])


def test_the_papers_double_normalisation_is_a_setting():
    """Bridge and LIBERO there: q01 and q99 to -1 and 1, cut at 1, then cut at 0.65 and divided by it."""
    actions = data(5, 2000)
    found = Statistics.of(actions)
    normalizer = Normalizer.fit(spec(), found, NormalizerConfig(kind="quantile", clip=0.65))
    low, high = np.array(found.q01)[:3], np.array(found.q99)[:3]
    once = np.clip(2 * (actions[:, :3].astype(float) - low) / (high - low) - 1, -1, 1)
    twice = np.clip(once, -0.65, 0.65) / 0.65
    assert np.allclose(normalizer.normalize(actions)[:, :3], twice, rtol=0, atol=1e-6)
    assert (np.abs(twice) == 1).mean() > 0.05  # something is cut
    back = (0.65 * twice + 1) / 2 * (high - low) + low
    assert np.allclose(normalizer.inverse(np.c_[twice, actions[:, 3]])[:, :3], np.clip(back, -2, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["quantile", "min_max", "mean_std"])
def test_a_dimension_that_does_not_move_becomes_zero_and_its_constant(kind):
    actions = data(1)
    actions[:, 1] = 0.3
    actions[::2, 1] = np.nextafter(np.float32(0.3), np.float32(1))  # rounding of a constant is no motion
    actions[:, 2] = 0.0
    normalizer = Normalizer.fit(spec(), Statistics.of(actions), NormalizerConfig(kind=kind))
    targets = normalizer.normalize(actions)
    assert np.array_equal(targets[:, 1:3], np.zeros((200, 2)))
    assert np.allclose(normalizer.inverse(np.full((5, 4), 0.7))[:, 1:3], [0.3, 0.0])


def test_actions_stay_inside_the_limits_and_shapes_are_kept():
    found = Statistics.of(data(2))
    normalizer = Normalizer.fit(spec(), found, NormalizerConfig(kind="mean_std"))
    actions = normalizer.inverse(np.full((2, 7, 4), 100.0))
    assert actions.shape == (2, 7, 4) and np.array_equal(actions[0, 0], [2, 2, 2, 1])
    for action in actions[0]:
        spec().check(action)
    with pytest.raises(AssertionError):
        normalizer.normalize(np.zeros((7, 3)))


def test_mistakes_are_refused():
    found = Statistics.of(data(2))
    with pytest.raises(UserError, match="clip -1"):
        Normalizer.fit(spec(), found, NormalizerConfig(clip=-1))
    endless = ActionSpec((Dimension("x", "m", "delta", "base", -np.inf, np.inf),), "none", 5.0)
    with pytest.raises(UserError, match="finite limits"):
        Normalizer.fit(endless, None, NormalizerConfig(kind="limits"))
    free = Normalizer.fit(endless, Statistics.of(data(2)[:, :1]), NormalizerConfig())
    assert Normalizer.from_dict(json.loads(json.dumps(free.to_dict(), allow_nan=False))) == free
