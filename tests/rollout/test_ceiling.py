"""The expert through a policy's channel, with real workers on the fake benchmark, where its steps can be counted."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_bench import Benchmark

from vlm4vla.data.normalize import Normalizer
from vlm4vla.rollout import ceiling
from vlm4vla.rollout.pool import WorkerPool
from vlm4vla.schemas import NormalizerConfig
from vlm4vla.types import RunFailed, UserError

BENCH = str(Path(__file__).with_name("fake_bench.py"))


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """The command on the fake benchmark, in workers of this interpreter."""
    monkeypatch.setenv("VLM4VLA_HOME", str(tmp_path))
    monkeypatch.setattr(ceiling, "load", lambda _: Benchmark())
    monkeypatch.setattr(ceiling, "WorkerPool", lambda _, n, log: WorkerPool(BENCH, n, log, Path(sys.executable)))
    return ceiling.Ceiling("fake", ("move",), 2, 3, ("none",), ((10, 1),), 0.0, 2)


def table(what):
    lines = [line for line in ceiling.measure(what, lambda _: None) if line["task"] is None]
    return {(line["normalizer"], line["execute"]): (line["successes"], line["steps"]) for line in lines}


def test_a_cut_costs_steps_and_a_long_horizon_costs_more(fake):
    """A quarter of the way per step, nine steps at most; cut to one half, the way takes eight.

    With two actions executed of each forecast, the second of the fourth pair is already a stop: nine steps. With ten,
    half of the forecast's way is left at its end, and it ends in stops.
    """
    found = table(replace(fake, normalizers=("none", "limits:0.5"), horizons=((10, 1), (10, 2), (10, 10))))
    assert found == {
        ("none", 1): (2, 4),
        ("none", 2): (2, 4),
        ("none", 10): (2, 4),
        ("limits:0.5", 1): (2, 8),
        ("limits:0.5", 2): (2, 9),
        ("limits:0.5", 10): (0, 9),
    }


def test_normalisers_are_fitted_on_the_experts_labels(fake):
    """Its labels are four ones and a stop after each success: the quantiles are 0 and 1, and the middle is 0.5."""
    found = table(replace(fake, normalizers=("quantile", "quantile:0.2")))
    assert found["quantile", 1] == (2, 4)
    cut = Normalizer.fit(Benchmark.action_spec, None, NormalizerConfig(kind="limits", clip=0.2))
    assert np.allclose(cut.inverse(cut.normalize([1.0, 1.0])), [0.2, 1.0])
    # 0.5 +- 0.2 * 0.5: never slower than 0.4, never faster than 0.6
    assert found["quantile:0.2", 1] == (2, 7)


def test_single_lines_have_bounds(fake):
    lines = ceiling.measure(replace(fake, tasks=("move", "slide")), lambda _: None)
    assert [(line["task"], line["episodes"]) for line in lines] == [(None, 4), ("move", 2), ("slide", 2)]
    assert lines[0]["high"] == 1 and lines[0]["low"] == pytest.approx(0.025 ** (1 / 4))  # Clopper-Pearson, all solved
    assert "4/4" in ceiling.sentence(lines[0])


def test_a_simulator_that_fails_in_the_forecast_is_told(fake):
    with pytest.raises(RunFailed, match="ZeroDivisionError"):
        ceiling.measure(replace(fake, tasks=("raise",)), lambda _: None)


@pytest.mark.parametrize("name", ["quantil", "quantile:2", "quantile:x", "limits:0"])
def test_unknown_normalisers_are_refused(fake, name):
    with pytest.raises(UserError, match=r"Possible: none, limits, quantile"):
        ceiling.measure(replace(fake, normalizers=(name,)), lambda _: None)


@pytest.mark.parametrize("text", ["10", "5:10", "0:0", "a:b", "4:2:1"])
def test_horizons_are_read(text):
    with pytest.raises(UserError, match="CHUNK:EXECUTED"):
        ceiling.horizon(text)
    assert ceiling.horizon("10:5") == (10, 5)


def test_asking_for_nothing_or_twice(fake):
    for empty in ({"normalizers": ()}, {"horizons": ()}, {"episodes": 0}):
        with pytest.raises(UserError, match="Nothing was asked for"):
            ceiling.measure(replace(fake, **empty), lambda _: None)
    lines = ceiling.measure(replace(fake, horizons=((4, 2), (4, 2))), lambda _: None)
    assert [line["episodes"] for line in lines] == [2, 2]  # not four: the same episodes twice tell nothing new
