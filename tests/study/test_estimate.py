"""What an estimate tries in the simulator: the tasks that are recorded and those that are played, past its start."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vlm4vla import config as configs
from vlm4vla import registry
from vlm4vla.bench.metaworld import env
from vlm4vla.rollout import pool
from vlm4vla.schemas import StudyConfig
from vlm4vla.study import run as study_run
from vlm4vla.train import probe
from vlm4vla.types import step_limit_of

FILE = Path(__file__).parents[2] / "studies" / "quickstart.yaml"
LENGTHS = {"drawer-open": 400, "drawer-close": 60, "window-open": 100}
FRAME_S, START_S = 0.5, 1000.0


class Chained(env.Benchmark):
    """As if ``drawer-open`` were chains."""

    chains = ("drawer-open",)


class Simulator:
    """In place of a pool of workers: its clock goes on by what it does, and its first job takes long."""

    def __init__(self) -> None:
        self.now, self.jobs, self.unsolved = 0.0, list[dict[str, Any]](), set[str]()

    def __enter__(self) -> "Simulator":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, jobs: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        for job in jobs:
            self.jobs.append(job)
            task = job["episode"]["task"]
            steps = 200 if task in self.unsolved else LENGTHS[task] + job["after_success"]
            self.now += steps * FRAME_S + (START_S if len(self.jobs) == 1 else 0.0)
            yield job, {"kind": "result", "success": task not in self.unsolved, "actions": [0] * steps}


@pytest.fixture
def simulator(monkeypatch: pytest.MonkeyPatch) -> Simulator:
    made, find = Simulator(), registry.find
    monkeypatch.setattr(pool, "WorkerPool", lambda *_: made)
    monkeypatch.setattr(probe, "measure", lambda *_: {"seconds_per_step": 0.1, "seconds_per_inference": 0.01})
    monkeypatch.setattr(study_run, "time", SimpleNamespace(monotonic=lambda: made.now))
    module = SimpleNamespace(Benchmark=Chained)
    monkeypatch.setattr(registry, "find", lambda room, name: module if room == "bench" else find(room, name))
    return made


Estimate = Callable[..., dict[str, Any]]


@pytest.fixture
def estimate(simulator: Simulator) -> Estimate:
    return lambda *words: study_run.estimate(configs.load(StudyConfig, FILE, words), 1)


def test_demonstrations_and_evaluations_are_tried_on_their_own_tasks(simulator: Simulator, estimate: Estimate) -> None:
    """Chains are played and single tasks recorded, with noise and with the steps after success."""
    chains = ["--tasks", "[drawer-open]", "--demos.tasks", "[drawer-close, window-open]"]
    found = estimate(*chains, "--demos.noise", "0.2", "--demos.after_success", "6")
    counted = [(job["episode"]["task"], job["noise"]) for job in simulator.jobs[1:]]
    assert counted == [("drawer-close", 0.2), ("window-open", 0.2), ("drawer-open", 0.0)]
    assert (found["demo_steps"], found["solved_steps"]) == (86, 400) and found["not_counted"] == []


def test_the_start_of_the_simulator_is_not_counted(estimate: Estimate) -> None:
    assert estimate("--tasks", "[drawer-close]", "--demos.after_success", "0")["frame_s"] == FRAME_S


def test_a_failed_demonstration_is_no_length(simulator: Simulator, estimate: Estimate) -> None:
    two = ["--tasks", "[drawer-close, window-open]", "--demos.after_success", "0"]
    simulator.unsolved = {"window-open"}
    found = estimate(*two)
    assert (found["demo_steps"], found["solved_steps"], found["not_counted"]) == (60, 60, [])
    simulator.unsolved |= {"drawer-close"}
    found = estimate(*two)
    limits = [step_limit_of(Chained(), task) for task in ("drawer-close", "window-open")]
    assert found["demo_steps"] == found["solved_steps"] == sum(limits) / 2
    assert len(found["not_counted"]) == 2 and "demonstrations: the scripted expert failed" in found["not_counted"][0]
