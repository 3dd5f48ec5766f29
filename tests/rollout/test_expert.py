"""The table of the scripted expert, with real workers on a fake benchmark whose expert fails on every third start."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlm4vla.cli.main import main
from vlm4vla.rollout import expert
from vlm4vla.rollout.pool import WorkerPool
from vlm4vla.types import RunFailed, UserError

SCRIPT = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import fake_bench

class Env(fake_bench.FakeEnv):
    def step(self, action, render):
        assert not render or self.task == "chain" or not self.shown
        return super().step(action * (0 if self.index % 3 == 2 else 1), render)

class Benchmark(fake_bench.Benchmark):
    def tasks(self): return ("move", "raise", "slide", "chain")
    def episodes(self, split, task, count): return super().episodes(split, task, min(count, 30))
    chains = ("chain",)
    def make(self, task): return Env(task, self.action_spec)
"""
PYTHON = Path(sys.executable)


@pytest.fixture
def what(monkeypatch, tmp_path):
    monkeypatch.setenv("VLM4VLA_HOME", str(tmp_path))
    file = tmp_path / "thirds.py"
    file.write_text(SCRIPT)
    return expert.Trial(str(file), ("move", "slide"), "dev", 1, 6, 2)


def test_a_line_a_task_and_one_over_all(what):
    move, slide, every = expert.measure(what, print, PYTHON)
    assert (move["task"], slide["task"], every["task"]) == ("move", "slide", None)
    # starts 1 to 6, of which 2 and 5 fail; the expert takes four steps of a quarter
    assert (move["successes"], move["episodes"], move["steps"], move["split"], move["first"]) == (4, 6, 4.0, "dev", 1)
    assert (every["successes"], every["episodes"]) == (8, 12) and "completed" not in every
    # Clopper and Pearson's bounds of 4 in 6, from their tables
    assert (round(move["low"], 4), round(move["high"], 4)) == (0.2228, 0.9567)
    assert expert.sentence(move) == "move: 4/6 (22.3 to 95.7 %), 4 steps"


def test_chains_count_tasks_in_a_row_and_none_solved_has_no_steps(what):
    chain, _ = expert.measure(replace(what, tasks=("chain",), first=0, episodes=3), print, PYTHON)
    assert chain["completed"] == pytest.approx(4 / 3)  # 2, 2, 0 of two
    failed, _ = expert.measure(replace(what, tasks=("chain",), first=2, episodes=1), print, PYTHON)
    assert failed["steps"] is None and failed["completed"] == 0
    assert expert.sentence(failed) == "chain: 0/1 (0.0 to 97.5 %), 0.00 tasks in a row"


def test_under_noise_it_plays_what_a_demonstration_would_record(what):
    def by_hand(start):
        """Steps until 1 is reached, a quarter of the action a step; null within nine steps or on a third start."""
        random, x = np.random.default_rng(np.random.SeedSequence(start)), 0.0
        for step in range(1, 10):
            x += 0.25 * float(np.clip(min(1.0, 4 * (1 - x)) + random.normal(0.0, 1.5, 1)[0], -1, 1)) * (start % 3 != 2)
            if x >= 1:
                return step
        return None

    expected = [by_hand(start) for start in range(1, 25)]
    steps = [n for n in expected if n is not None]
    move, every = expert.measure(replace(what, tasks=("move",), episodes=24, noise=1.5), print, PYTHON)
    assert (move["noise"], move["successes"], every["successes"]) == (1.5, len(steps), len(steps))
    assert 4 < len(steps) < 16 and move["steps"] == pytest.approx(np.mean(steps))
    assert expert.sentence(move).endswith(f"{np.mean(steps):.0f} steps, noise 1.5")
    with pytest.raises(UserError, match="'chain' is a chain of subtasks"):
        expert.measure(replace(what, tasks=("chain",), noise=0.1), print, PYTHON)


def test_wrong_numbers_are_refused_and_a_broken_episode_fails_the_run(what):
    for wrong, why in (
        ({"episodes": 0}, "0 episodes"),
        ({"first": -1}, "start -1"),
        ({"noise": -1.0}, "sd -1"),
        ({"first": 25}, "0 to 29"),
    ):
        with pytest.raises(UserError, match=why):
            expert.measure(replace(what, **wrong), print, PYTHON)
    with pytest.raises(UserError, match="Did you mean 'slide'"):
        expert.measure(replace(what, tasks=("slid",)), print, PYTHON)
    with pytest.raises(RunFailed, match=r"raise/[1-6] failed: ZeroDivisionError"):
        expert.measure(replace(what, tasks=("raise",)), print, PYTHON)


def test_the_command_line(what, monkeypatch, capsys):
    monkeypatch.setattr(expert, "WorkerPool", lambda bench, n, log, _: WorkerPool(bench, n, log, PYTHON))
    words = ["bench", "expert", what.bench, "--tasks", "move", "--episodes", "3", "--workers", "1"]
    assert main([*words, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["task"], line["successes"], line["split"]) for line in lines] == [
        ("move", 2, "train"),
        (None, 2, "train"),
    ]
    assert main([*words, "--noise", "0.01"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("move: ") and told.rstrip().endswith(", noise 0.01")
