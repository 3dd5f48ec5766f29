"""One live environment: ManiSkill's scene, our starts, and the published success rule. Loads the simulator."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm4vla.bench.common import chosen_cameras, must_be_of
from vlm4vla.bench.simpler import protocol, rotations, starts
from vlm4vla.bench.simpler.moved import moved
from vlm4vla.bench.simpler.simulator import build, place
from vlm4vla.bench.simpler.tasks import TASKS, Task
from vlm4vla.types import (
    ActionSpec,
    CameraShift,
    CameraSpec,
    EpisodeSpec,
    Image,
    Observation,
    StepResult,
    Vector,
    refuse,
)

Array = npt.NDArray[np.float64]
_live: list["BridgeEnv"] = []  # at most one


class BridgeEnv:
    """One task. Actions and state are Bridge's, converted here and nowhere else; nothing is drawn unless asked for.

    ``ever``: success is told after any step, else after the last one only. ``late_gripper``: the hand opens after
    ``protocol.LATE_OPEN`` commands to open in a row.
    """

    def __init__(
        self, task: str, spec: ActionSpec, cameras: tuple[CameraSpec, ...], ever: bool, late_gripper: bool
    ) -> None:
        if _live:
            raise RuntimeError(
                f"An environment of task {_live[0].task!r} is still open in this process. Close it before the next is "
                "made."
            )
        self.task: str = task
        self.data: Task = TASKS[task]
        self._spec, self._cameras, self._shown = spec, cameras, cameras
        self._shifts: dict[str, CameraShift] = {}
        self._ever, self._late = ever, late_gripper
        self.sim: Any = build(self.data.env)
        self._done = -1
        _live.append(self)

    @property
    def source(self) -> Any:
        """The thing to be moved; another object after each reset, as the scene is built anew."""
        return self.sim.objs[self.data.source]

    @property
    def target(self) -> Any:
        return self.sim.objs[self.data.target]

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
        start = starts.of(episode)
        place(self.sim, (start.source, start.target), (start.source_turn, start.target_turn))
        self._done, self._opens, self._partial = 0, 0, False
        pairs = zip((self.source, self.target), self.data.sizes, strict=True)
        self._halves = [rotations.of_quaternion(quaternion(thing)) @ np.array(size) / 2 for thing, size in pairs]
        return StepResult(False, self._observe() if render else None, holds=False, partial=False)

    def step(self, action: Vector, render: bool) -> StepResult:
        """Execute one action of the benchmark's spec; a number that is not finite is refused. Above 0 opens."""
        self._must_be_open()
        assert self._done >= 0, "reset before step"
        value = self._spec.check(action).astype(np.float64)
        if not np.isfinite(value).all():  # the spec, which is Bridge's, has no limits
            raise refuse(
                f"Action dimension {self._spec.dimensions[int(np.argmin(np.isfinite(value)))].name!r} is not finite",
                possible="finite numbers",
                todo="Look for what went wrong in the policy; nothing sensible can be executed.",
            )
        self._opens = self._opens + 1 if value[6] > 0 else 0
        opens = self._opens >= (protocol.LATE_OPEN if self._late else 1)
        turn = rotations.moving(rotations.of_fixed(value[3:6]))
        self.sim._step_action(np.concatenate([value[:3], turn, [1.0 if opens else -1.0]]).astype(np.float32))
        self._done += 1
        holds = self.lies_on_target()
        self._partial = self._partial or bool(self.sim.agent.is_grasping(self.source)[0])
        success = holds and (self._ever or self._done >= self.data.steps)
        return StepResult(success, self._observe() if render else None, holds=holds, partial=self._partial)

    def lies_on_target(self) -> bool:
        """The published rule (``evaluate`` of PutOnInSceneEnv, at the commit in ``protocol``)."""
        offset = position(self.source) - position(self.target)
        source, target = self._halves
        near = np.linalg.norm(offset[:2]) <= np.linalg.norm(target[:2]) + protocol.XY_MARGIN_M
        low = offset[2] > 0 and offset[2] - target[2] - source[2] <= self.data.above
        return bool(near and low and not (self.data.touches_nothing_else and self._touches_else()))

    def _touches_else(self) -> bool:
        """Whether the source touches anything but its target and the robot."""
        source = self.source._objs[0]
        allowed = [self.target._objs[0], *(link._objs[0].entity for link in self.sim.agent.robot.get_links())]
        for contact in self.sim.scene.get_contacts():
            bodies = [body.entity for body in contact.bodies]
            if source in bodies:
                other = bodies[1] if bodies[0] == source else bodies[0]
                impulse = np.sum([point.impulse for point in contact.points], axis=0)
                if other not in allowed and np.linalg.norm(impulse) > protocol.IMPULSE:
                    return True
        return False

    def hand(self) -> tuple[Array, Array]:
        """Where the hand is, in the robot's base frame: position (3,), rotation (3, 3) against straight down."""
        return _pose(self._arm.ee_pose_at_base)

    def hand_target(self) -> tuple[Array, Array]:
        """Where the controller wants the hand to be; actions add to it."""
        return _pose(self._arm._target_pose)

    @property
    def _arm(self) -> Any:
        return self.sim.agent.controller.controllers["arm"]

    def state(self) -> Array:
        """Bridge's seven numbers: x, y, z (m), roll, pitch, yaw (rad), opening 0 to 1."""
        at, rotation = self.hand()
        fingers = np.asarray(self.sim.agent.robot.qpos[0, -2:], np.float64)
        span = protocol.GRIPPER_OPEN_M - protocol.GRIPPER_CLOSED_M
        opening = min(1.0, float(fingers.mean() - protocol.GRIPPER_CLOSED_M) / span)
        return np.array([*at, *rotations.fixed(rotation), opening])

    def snapshot(self) -> npt.NDArray[np.float64]:
        """Poses and velocities of all bodies and joints, the controller's target, and what is counted."""
        at, rotation = self.hand_target()
        wanted = np.asarray(self.sim.agent.robot.get_drive_targets()[0], np.float64)
        body = np.asarray(self.sim.get_state()[0], np.float64)
        return np.concatenate([body, at, rotation.ravel(), wanted, [self._done, self._opens, self._partial]])

    def close(self) -> None:
        if self in _live:
            _live.remove(self)
            self.sim.close()

    def _must_be_open(self) -> None:
        if self not in _live:
            raise RuntimeError(f"The environment of task {self.task!r} is closed.")

    def _observe(self) -> Observation:
        images: dict[str, Image] = {}
        if self._shown:
            with moved(self.sim, self._shifts.get(protocol.CAMERA)):
                images[protocol.CAMERA] = np.array(self.sim._get_obs_sensor_data()[protocol.CAMERA]["rgb"][0], np.uint8)
        return Observation(images, self.data.instruction, self.state().astype(np.float32))


def position(thing: Any) -> Array:
    """(3,) in the world."""
    return np.asarray(thing.pose.p[0], np.float64)


def quaternion(thing: Any) -> Array:
    """(w, x, y, z) in the world."""
    return np.asarray(thing.pose.q[0], np.float64)


def _pose(pose: Any) -> tuple[Array, Array]:
    at, turn = np.asarray(pose.p[0], np.float64), np.asarray(pose.q[0], np.float64)
    return at, rotations.of_quaternion(turn) @ rotations.BRIDGE_DOWN.T
