"""The scripted expert: grasp the source from above across its long side, and put it down on the target.

It knows where everything is and watches what happens: a grasp that fails is tried again. Its actions are those of a
policy: at most 3 cm and 0.2 rad a step, about the 99th percentiles of Bridge.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlm4vla.bench.simpler import rotations
from vlm4vla.bench.simpler.sim import BridgeEnv, position, quaternion
from vlm4vla.types import EpisodeSpec, Vector

Array = npt.NDArray[np.float64]
OPEN, CLOSE = 1.0, -1.0
_STEP_M, _STEP_RAD = 0.03, 0.2
_NEAR_M, _NEAR_RAD = 0.006, 0.06
_HELD_M = 0.04  # a thing farther from where it was grasped, as the hand sees it, is lost


@dataclass(frozen=True)
class Way:
    """How a task is done. Metres; heights of the hand are above the source's or the target's middle.

    ``along``: where to grasp, from the source's middle along its long side. ``quarter``: a quarter turn grasps as well.
    """

    grasp: float
    along: float = 0.0
    quarter: bool = False
    hover: float = 0.05
    lift: float = 0.06
    drop: float = 0.01


WAYS = {
    "put-spoon-on-towel": Way(grasp=0.0, along=0.03),  # the handle
    "put-carrot-on-plate": Way(grasp=0.0),
    "stack-green-on-yellow": Way(grasp=0.0, quarter=True, drop=0.033),
    "put-eggplant-in-basket": Way(grasp=0.0, lift=0.12, drop=0.06),
}


class ScriptedExpert:
    """Bound to a live environment; one action of the benchmark's spec per step."""

    def __init__(self, env: BridgeEnv) -> None:
        self._env = env
        self._way = WAYS[env.task]
        self._steps: Iterator[Vector] = iter(())

    def reset(self, episode: EpisodeSpec) -> None:
        assert episode.task == self._env.task
        self._steps = self._work()

    def act(self) -> Vector:
        return next(self._steps)

    def _work(self) -> Iterator[Vector]:
        while True:
            yield from self._grasp()
            if self._holds():
                yield from self._put()
            if self._env.lies_on_target():
                break
            yield from self._go(_above(self._env.hand()[0], self._way.hover), self._yaw, OPEN, steps=4)
        while True:
            yield self._action(self._rest, self._yaw, OPEN)

    def _grasp(self) -> Iterator[Vector]:
        way = self._way
        place, self._yaw = self._where()
        yield from self._go(_above(place, way.grasp + way.hover), self._yaw, OPEN, near=0.015)
        yield from self._go(_above(place, way.grasp), self._yaw, OPEN, steps=8)
        for _ in range(3):
            yield self._action(_above(place, way.grasp), self._yaw, CLOSE)
        self._grip = self._source() - self._env.hand()[0]
        yield from self._go(_above(place, way.lift), self._yaw, CLOSE, near=0.015, steps=8)

    def _put(self) -> Iterator[Vector]:
        way, target = self._way, self._to_base(position(self._env.target))
        self._grip = self._source() - self._env.hand()[0]
        over = target - self._grip
        high = max(over[2] + way.drop, self._env.hand()[0][2])
        yield from self._go(np.append(over[:2], high), self._yaw, CLOSE, near=0.01, steps=20)
        if not self._holds():
            return
        over = target - (self._source() - self._env.hand()[0])
        end = _above(over, way.drop)
        yield from self._go(end, self._yaw, CLOSE, steps=10)
        for _ in range(2):
            yield self._action(end, self._yaw, OPEN)
        self._rest = _above(end, 0.08)
        yield from self._go(self._rest, self._yaw, OPEN, near=0.02, steps=6)

    def _holds(self) -> bool:
        return bool(np.linalg.norm(self._source() - self._env.hand()[0] - self._grip) < _HELD_M)

    def _where(self) -> tuple[Array, float]:
        """Where to grasp (3,) and the hand's yaw, in the base's frame."""
        axis = self._base_rotation().T @ rotations.of_quaternion(quaternion(self._env.source))[:, 0]
        yaw = float(np.arctan2(axis[1], axis[0]))
        turn = np.pi / 2 if self._way.quarter else np.pi
        flat = axis * [1, 1, 0] / max(float(np.linalg.norm(axis[:2])), 1e-9)
        return self._source() + self._way.along * flat, (yaw + turn / 2) % turn - turn / 2

    def _source(self) -> Array:
        return self._to_base(position(self._env.source))

    def _to_base(self, point: Array) -> Array:
        return self._base_rotation().T @ (point - position(self._env.sim.agent.robot))

    def _base_rotation(self) -> Array:
        return rotations.of_quaternion(quaternion(self._env.sim.agent.robot))

    def _go(self, place: Array, yaw: float, gripper: float, near: float = _NEAR_M, steps: int = 25) -> Iterator[Vector]:
        """Move until the hand is ``near`` the place and turned, for at most ``steps``."""
        for _ in range(steps):
            at, rotation = self._env.hand()
            angle = rotations.fixed(rotations.of_fixed([0, 0, yaw]) @ rotation.T)
            if np.linalg.norm(place - at) < near and np.abs(angle).max() < _NEAR_RAD:
                return
            yield self._action(place, yaw, gripper)

    def _action(self, place: Array, yaw: float, gripper: float) -> Vector:
        """One step of the controller's target towards a place and a yaw, fingers down."""
        at, rotation = self._env.hand_target()
        move = place - at
        move *= min(1.0, _STEP_M / max(float(np.abs(move).max()), 1e-9))
        turn = np.clip(rotations.fixed(rotations.of_fixed([0, 0, yaw]) @ rotation.T), -_STEP_RAD, _STEP_RAD)
        return np.array([*move, *turn, gripper], np.float32)


def _above(point: Array, height: float) -> Array:
    return np.array([point[0], point[1], point[2] + height])
