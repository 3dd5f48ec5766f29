"""A benchmark without a simulator, for the pool and the worker: a point that must be moved to 1 along x.

Tasks decide how it behaves: "move" and "slide" work; "raise" fails in every step; "die" kills its process in reset;
"die-once" does so until its flag file exists; "hang" never comes back from reset; "nowhere" (not listed) has starts
that cannot be put in place. "chain" (not listed) has two subtasks, half of the way each; it is over when one takes more
than four steps. A moved camera sees it as if all had been moved by as much along x.
"""

import os
import signal
import time
from pathlib import Path

import numpy as np

from vlm4vla.types import (
    ActionSpec,
    CameraMove,
    CameraSpec,
    Dimension,
    EpisodeSpec,
    Observation,
    StartFailed,
    StepResult,
)

FLAG = Path(os.environ.get("FAKE_BENCH_FLAG", "/nonexistent/flag"))


class FakeEnv:
    def __init__(self, task, spec):
        self.task, self.spec, self.x, self.rendered = task, spec, 0.0, 0
        self.shown, self.shifts = ["front"], {}

    def look_at(self, cameras):
        self.shown = list(cameras)

    def move_cameras(self, shifts):
        self.shifts = dict(shifts)

    def reset(self, episode, render=True):
        if self.task == "die" or (self.task == "die-once" and not FLAG.exists()):
            if self.task == "die-once":
                FLAG.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.task == "nowhere":
            raise StartFailed("nothing fits")
        if self.task == "hang":
            print("hanging", flush=True)
            time.sleep(3600)
        self.index = episode.index
        self.instruction = episode.instruction
        self.x, self.spent = 0.0, 0
        return StepResult(False, self._see() if render else None, completed=self.completed)

    def step(self, action, render):
        if self.task == "raise":
            raise ZeroDivisionError("simulated")
        before = self.completed
        self.x += 0.25 * float(self.spec.check(action)[0])
        solved = self.completed != before
        self.spent = 0 if solved else self.spent + 1
        over = self.task == "chain" and self.spent > 4
        return StepResult(self.x >= 1.0, self._see() if render or solved else None, over, self.completed)

    @property
    def completed(self):
        return int(2 * self.x) if self.task == "chain" else None

    def _see(self):
        self.rendered += 1
        aside = abs(self.shifts["front"].translation[0]) if self.shifts else 0.0
        picture = np.full((4, 4, 3), 10 * self.index + 100 * (self.x + aside), np.uint8)
        told = self.instruction + (f" {self.completed}" if self.task == "chain" else "")
        return Observation(dict.fromkeys(self.shown, picture), told, np.array([self.x], np.float32))

    def snapshot(self):
        return np.array([self.x, self.index])

    def close(self):
        print("closed", self.task, flush=True)  # to the log, never to the channel


class FakeExpert:
    """Goes as fast as it may, and stops where it wants to be."""

    def __init__(self, env):
        self.env = env

    def reset(self, episode): ...

    def act(self):
        return np.array([min(1.0, 4 * (1 - self.env.x)), 1.0], np.float32)


class Benchmark:
    id = "fake-v1"
    action_spec = ActionSpec(
        (Dimension("dx", "m", "delta", "world", -1, 1), Dimension("gripper", "", "gripper", "gripper", -1, 1)),
        "none",
        10.0,
    )
    cameras = (CameraSpec("front", 4, 4),)
    camera_moves = {"front": CameraMove(metres=0.5, degrees=2.0)}  # noqa: RUF012
    state_names = ("x",)
    step_limit = 9
    success_rule = "x >= 1"

    def tasks(self):
        return ("die", "die-once", "hang", "move", "raise", "slide")

    def instruction(self, task):
        return f"please {task}"

    def paraphrase(self, task):
        return f"kindly {task}"

    def episodes(self, split, task, count):
        return tuple(EpisodeSpec(self.id, split, task, i, i, self.instruction(task)) for i in range(count))

    def make(self, task):
        return FakeEnv(task, self.action_spec)

    def expert(self, env):
        return FakeExpert(env)

    def do_nothing(self):
        return np.array([0.0, 1.0], np.float32)

    def versions(self):
        print("a simulator that prints", flush=True)
        return {"fake": "1"}
