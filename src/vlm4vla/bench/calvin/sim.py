"""One live environment: the world, its pictures, and the tasks to be solved in it. Loads pybullet."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vlm4vla.bench.calvin import protocol, starts
from vlm4vla.bench.calvin.oracle import RULES, Facts
from vlm4vla.bench.calvin.render import painter
from vlm4vla.bench.calvin.scripts import play_until_held
from vlm4vla.bench.calvin.world import World
from vlm4vla.bench.common import chosen_cameras, must_be_of
from vlm4vla.types import (
    ActionSpec,
    CameraShift,
    CameraSpec,
    EpisodeSpec,
    Observation,
    StepResult,
    Vector,
    refuse,
)

_live: list["TableEnv"] = []  # at most one
_ATTEMPTS = 20  # starts drawn at most, where lifting fails


class TableEnv:
    """One task, or a chain of five: the next begins where the last one was solved; a failed one ends the episode."""

    def __init__(
        self,
        task: str,
        data: Path,
        spec: ActionSpec,
        cameras: tuple[CameraSpec, ...],
        sentences: dict[str, str],
        forgets_led: bool,
    ) -> None:
        """``data``: folder of URDFs and meshes; ``sentences``: what the robot is told, by task."""
        if _live:
            raise RuntimeError(
                f"An environment of task {_live[0].task!r} is still open in this process. Close it before the next is "
                "made."
            )
        self.task: str = task
        self._data, self._spec, self._sentences = data, spec, sentences
        self._cameras, self._shown = cameras, cameras
        self._shifts: dict[str, CameraShift] = {}
        self.world = World(data, forgets_led)
        self._tasks: tuple[str, ...] = ()
        self._told: dict[str, str] = {}
        self._began: Facts | None = None
        _live.append(self)

    def look_at(self, cameras: Collection[str]) -> None:
        """Pictures of these cameras only, from now on."""
        self._shown = chosen_cameras(cameras, self._cameras)

    def move_cameras(self, shifts: Mapping[str, CameraShift]) -> None:
        """Let these cameras see from where their shift puts them, from now on; the others from where they belong."""
        chosen_cameras(shifts, self._cameras)
        self._shifts = dict(shifts)

    def reset(self, episode: EpisodeSpec, render: bool = True) -> StepResult:
        """Build the start of ``episode``; it alone decides it."""
        self._must_be_open()
        must_be_of(self.task, episode)
        start = self._build(episode)
        self._tasks, self._solved, self._spent = start.tasks, 0, 0
        self._told = {} if self.task in starts.CHAINS else {self.task: episode.instruction}
        self._began = self.world.facts()
        return StepResult(False, self._observe() if render else None, completed=self._completed)

    def _build(self, episode: EpisodeSpec) -> starts.Start:
        """The world of the first drawn start whose prelude, if it has one, ends with the block in the hand."""
        for attempt in range(_ATTEMPTS):
            start = starts.of(episode, attempt)
            self.world.build(start.scene, start.robot_obs, start.scene_obs)
            if start.prelude is None or play_until_held(self.world, start.prelude):
                return start
        raise RuntimeError(f"The block is not in the hand after {_ATTEMPTS} starts drawn for {episode}.")

    @property
    def subtask(self) -> str:
        """The task that is to be solved now (the last one when all are)."""
        return self._tasks[min(self._solved, len(self._tasks) - 1)]

    @property
    def _completed(self) -> int | None:
        return self._solved if self.task in starts.CHAINS else None

    def step(self, action: Vector, render: bool) -> StepResult:
        """Execute one action of the benchmark's spec; anything outside it is refused, a gripper between +-1 too."""
        self._must_be_open()
        assert self._began is not None, "reset before step"
        value = self._spec.check(action).astype(np.float64)
        if value[6] not in (-1.0, 1.0):
            raise refuse(
                f"The gripper was given {value[6]}",
                possible="1 (open) or -1 (close)",
                todo="Send one of the two; a policy's number is to be rounded by its own rule.",
            )
        self.world.step_relative(value)
        self._spent += 1
        now = self.world.facts()
        if self._solved < len(self._tasks) and RULES[self.subtask](self._began, now):
            self._solved, self._spent, self._began = self._solved + 1, 0, now
            render = render or self.task in starts.CHAINS
        success = self._solved == len(self._tasks)
        over = self.task in starts.CHAINS and not success and self._spent >= protocol.SUBTASK_STEPS
        return StepResult(success, self._observe() if render else None, over, self._completed)

    def snapshot(self) -> npt.NDArray[np.float64]:
        """Everything that can differ between two moments, flat."""
        world = self.world
        targets = (world.target_position, world.target_angles, [self._solved, self._spent])
        return np.concatenate([world.robot_obs(), world.scene_obs(), world.velocities(), *targets])

    def vectors(self) -> dict[str, npt.NDArray[np.float64]]:
        """What CALVIN's own data store of a moment: robot_obs (15) and scene_obs (24)."""
        return {"robot_obs": self.world.robot_obs(), "scene_obs": self.world.scene_obs()}

    def close(self) -> None:
        self.world.close()
        if self in _live:
            _live.remove(self)

    def _must_be_open(self) -> None:
        if self not in _live:
            raise RuntimeError(f"The environment of task {self.task!r} is closed.")

    def _observe(self) -> Observation:
        names = tuple(camera.name for camera in self._shown)
        pictures = painter(self._data).draw(self.world, names, shifts=self._shifts) if names else {}
        state = self.world.robot_obs().astype(np.float32)
        return Observation(pictures, (self._told or self._sentences)[self.subtask], state)
