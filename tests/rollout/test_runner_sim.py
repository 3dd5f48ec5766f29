"""The runner with real simulators."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rollout_fakes import FakePolicy

from vlm4vla import records, registry
from vlm4vla.records import EpisodeRow
from vlm4vla.rollout.runner import evaluate
from vlm4vla.schemas import EvalConfig
from vlm4vla.types import Observation

pytestmark = [pytest.mark.sim, pytest.mark.usefixtures("metaworld_env")]
TASKS = ("drawer-open", "drawer-close")


def configured(out: Path, policy: str, **changes: object) -> EvalConfig:
    values = {"bench": "metaworld", "tasks": TASKS, "episodes": 3, "execute": 4, "arm": "a", "batch": 3}
    return EvalConfig.model_validate(values | {"policy": policy, "out": out} | changes)


def timeless(out: Path) -> list[EpisodeRow]:
    return [r.model_copy(update={"wall_s": 0.0}) for r in records.read_all(out / "rows.jsonl", EpisodeRow)]


class Jitter(FakePolicy):
    """Moves at random, as a function of the picture: one different pixel and the episode goes elsewhere."""

    action_spec = registry.find("bench", "metaworld").Benchmark().action_spec
    cameras = ("corner2",)
    chunk = 4

    def act(self, observations: Sequence[Observation], tokens: int | None, precision: str = "fp32") -> np.ndarray:
        self.batches.append(list(observations))
        seeds = [self.drawn(o).digest()[:8] for o in observations]
        moves = [np.random.default_rng(int.from_bytes(s)).normal(0, 0.5, (4, 4)).clip(-1, 1) for s in seeds]
        return np.stack(moves).astype(np.float32)

    def seen(self) -> Counter[str]:
        """Pictures of real requests, each once per request (padding repeats the first of its batch)."""
        requests = [{id(o): o for o in batch}.values() for batch in self.batches[1:]]
        return Counter(self.drawn(o).hexdigest() for batch in requests for o in batch)

    def drawn(self, observation: Observation) -> Any:
        return hashlib.sha256(observation.images["corner2"].tobytes() + observation.noise.to_bytes(8, "big"))


class Drawing(Jitter):
    """And of the noise that the worker sends."""

    noisy = True


@pytest.mark.parametrize("kind", [Jitter, Drawing])
def test_rows_and_trajectories_do_not_depend_on_the_number_of_workers(tmp_path: Path, kind: type[Jitter]) -> None:
    seen = []
    for workers in (1, 3):
        policy = kind()
        out = tmp_path / str(workers)
        changes = {"episodes": 2, "control_episodes": 1, "controls": [None, "image-other"], "workers": workers}
        evaluate(configured(out, "jitter", **changes), policy, progress=False)
        assert {len(b) for b in policy.batches} == {3}
        seen.append(policy.seen())
    assert timeless(tmp_path / "1") == timeless(tmp_path / "3")
    assert len(timeless(tmp_path / "1")) == 6
    assert seen[0] == seen[1], "every picture that the policy was shown is the same"
    assert len(seen[0]) > 200
    noises = {o.noise for batch in policy.batches[1:] for o in batch}
    assert noises == {0} if kind is Jitter else len(noises) > 200


SCRIPT = """
import json, sys
from vlm4vla.schemas import EvalConfig
from vlm4vla.rollout.runner import evaluate
evaluate(EvalConfig.model_validate(json.loads(sys.argv[1])), None, progress=True)
"""


def test_a_runner_that_is_killed_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    evaluate(configured(whole, "builtin:expert", episodes=10), None, progress=False)
    config = configured(parts, "builtin:expert", episodes=10)
    runner = subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(config.model_dump(mode="json"))])
    rows = parts / "rows.jsonl"
    until = time.monotonic() + 60
    while not (rows.is_file() and rows.read_bytes().count(b"\n") >= 3) and time.monotonic() < until:
        time.sleep(0.005)
    runner.send_signal(signal.SIGKILL)
    assert runner.wait(10) == -signal.SIGKILL
    kept = timeless(parts)
    assert 3 <= len(kept) < 20
    record = evaluate(config, None, progress=False)
    assert record.facts["rows_of_earlier_attempts"] == len(kept)
    same_run = [r.model_copy(update={"run": ""}) for r in timeless(parts)]
    assert same_run == [r.model_copy(update={"run": ""}) for r in timeless(whole)]
    assert all(r.success for r in same_run)
