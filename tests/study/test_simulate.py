"""The simulation study: its truth is what it says, methods that hold pass it, methods that do not hold fail it."""

import json

import numpy as np
import pytest

from vlm4vla.cli.main import main
from vlm4vla.study import misuse, retrained, simulate
from vlm4vla.study.figures import Figure, figure
from vlm4vla.study.multiplicity import holm
from vlm4vla.study.simulated import calibrate, draw, episode_variance, moments
from vlm4vla.study.spread import spread
from vlm4vla.types import UserError

SMALL = simulate.Grid(
    benchmarks=((4, 24),), seeds=(2, 3), arms=(2, 4), retrain_sds=(0.0, 0.09), rates=(0.5,), ratios=(1,)
)


@pytest.mark.parametrize(("rate", "sd", "tasks"), [(0.05, 0.03, 4), (0.05, 0.09, 10), (0.5, 0.09, 6), (0.95, 0.0, 4)])
def test_rate_and_retrain_sd_are_what_was_asked_for(rate: float, sd: float, tasks: int) -> None:
    arm = calibrate(rate, sd, tasks)
    assert moments(arm, tasks) == pytest.approx((rate, sd), abs=1e-6)
    y, truth = draw(np.random.default_rng(0), 4000, [arm], 2, tasks, 10)
    runs = truth.mean(axis=-1)
    assert runs.mean() == pytest.approx(rate, abs=4 * max(sd, 1e-4) / 8000**0.5 + 1e-4)
    assert runs.std() == pytest.approx(sd, rel=0.06, abs=1e-6)
    assert y.mean() == pytest.approx(rate, abs=0.004)


def test_starts_are_shared_and_runs_are_not() -> None:
    arm = calibrate(0.5, 0.0, 4)
    y, _ = draw(np.random.default_rng(1), 400, [arm] * 2, 2, 4, 24)
    z = y - y.mean(axis=-1, keepdims=True)
    assert np.mean(z[:, 0, 0] * z[:, 1, 1]) > 0.02  # the same start: the same luck
    noise = np.mean([(a.astype(float) - b) ** 2 for a, b in zip(y[:, 0, 0], y[:, 1, 0], strict=True)]) / 2
    assert noise / (4 * 24) == pytest.approx(episode_variance(arm, 4, 24), rel=0.03)


def test_impossible_truths_are_refused() -> None:
    with pytest.raises(UserError, match=r"cannot vary by 0\.3"):
        calibrate(0.05, 0.3, 4)
    with pytest.raises(UserError, match="1 studies"):
        simulate.simulate(1, 0, SMALL, lambda _: None)


def test_methods_hold_and_wrong_uses_fail() -> None:
    found = simulate.simulate(400, 1, SMALL, lambda _: None)
    assert found["ok"], found["outside"]
    cells = [c for c in found["cells"] if c["kind"] == "wrong uses"]
    assert [c["seeds"] for c in cells] == [2, 3]
    for cell in cells:
        values = {f["name"]: f["value"] for f in cell["figures"]}
        assert values[misuse.MCNEMAR] > 0.19 and values[misuse.BOOTSTRAP] < 0.93
    uneven = {f"uneven arms, {case}" for case in simulate.UNEVEN}
    assert {c["kind"] for c in found["cells"]} == {"recipes", "checkpoints", "wrong uses", "power"} | uneven
    assert simulate.simulate(60, 1, SMALL, lambda _: None)["cells"] != found["cells"]


def test_the_same_seed_gives_the_same_digits() -> None:
    one, other, third = (simulate.simulate(20, seed, simulate.QUICK, lambda _: None) for seed in (3, 3, 4))
    assert one["cells"] == other["cells"] != third["cells"]


def test_holm_holds_where_some_arms_differ() -> None:
    """Two pairs of equal arms: what is claimed of them is false, whatever is claimed of the others."""
    arms = [calibrate(rate, 0.05, 4) for rate in (0.3, 0.3, 0.6, 0.6)]
    y, _ = draw(np.random.default_rng(6), 800, arms, 4, 4, 24)
    s = spread([y[..., t, :] for t in range(4)])
    p = retrained.differences(s, [0, 2, 0, 0, 1, 1], [1, 3, 2, 3, 2, 3]).p_value()
    steps = np.sort(p, axis=1) * np.arange(6, 0, -1)  # statsmodels collects garbage at every call: 0.1 s each
    sorted_back = np.argsort(np.argsort(p, axis=1), axis=1)
    adjusted = np.take_along_axis(np.minimum(np.maximum.accumulate(steps, axis=1), 1), sorted_back, axis=1)
    assert adjusted[:3] == pytest.approx(np.array([holm(values.tolist()) for values in p[:3]]))
    false = (adjusted[:, :2] <= 0.05).any(axis=1).mean()
    assert 0 < false <= 0.055 + 3 * (0.05 * 0.95 / 800) ** 0.5
    assert (adjusted[:, 2:] <= 0.05).mean() > 0.9


def test_a_method_that_covers_too_little_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = retrained.Contrast.half_width
    monkeypatch.setattr(retrained.Contrast, "half_width", lambda self, level: 0.6 * honest(self, level))
    found = simulate.simulate(200, 1, SMALL, lambda _: None)
    assert not found["ok"]
    assert "difference covered" in {x["name"] for x in found["outside"] if x["unsafe"] and not x["told"]}


def test_bands() -> None:
    inside = Figure("x", 0.95, 0.005, 0.93, 0.98, "above")
    assert not inside.outside and not inside.unsafe
    chance = Figure("x", 0.92, 0.005, 0.93, 0.98, "above")
    assert chance.outside and not chance.beyond_chance
    below, above = (Figure("x", v, 0.001, 0.93, 0.98, "above") for v in (0.92, 0.99))
    assert below.unsafe and above.beyond_chance and not above.unsafe
    assert Figure("x", 0.1, 0.001, 0.0, 0.05, "below").unsafe and Figure("x", 0.9, 0.001, 0.7, 0.8).unsafe
    assert figure("x", np.ones((100, 3)), 0, 1).error == 0.01  # never sure of nothing


def test_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "simulate", "--quick", "--studies", "20", "--json"]) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    assert found["studies"] == 20 and {x["figure"] for x in found["summary"]} >= {"difference covered", "mean covered"}
    assert main(["study", "simulate", "--quick", "--studies", "20"]) in (0, 1)
    out = capsys.readouterr().out
    assert "recipes, 2 seeds: difference covered" in out and "20 studies per cell" in out
    assert main(["study", "power", "--retrain-sd", "4", "--difference", "3"]) == 0
    assert "needs 29 training runs per arm" in capsys.readouterr().out
    assert main(["study", "power", "--difference", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seeds"] == 29
    assert main(["study", "power", "--difference", "300"]) == 2
    assert main(["study", "simulate", "--studies", "0"]) == 2
    assert "0 studies per cell say nothing" in capsys.readouterr().err
