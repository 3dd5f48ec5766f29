"""How the scripted expert moves the hand: each function yields one action a step until the hand is where it should be.

All of it reads the live environment only, so an expert with noise on its arm corrects itself.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from vlm4vla.bench.libero.sim import PandaEnv, axis_angle
from vlm4vla.types import Vector

import mujoco  # isort: skip

Point = npt.NDArray[np.float64]
OPEN, CLOSE = 1.0, -1.0

_GAIN = 20.0  # units per metre: full speed (a unit) from 0.05 m on
_PUSH, _PUSH_M = 4.0, 0.04  # units per metre and step that add up near the target: the arm rests 1 cm off in places
_TURN_GAIN = 4.0  # units per radian: full speed from 0.25 rad on
_NEAR_M, _NEAR_RAD = 0.01, 0.12
_FINGER_STEPS = 10


class Hand:
    """The hand of a live environment; ``down(angle)`` are orientations with the fingers closing along ``angle``."""

    def __init__(self, env: PandaEnv) -> None:
        self._env = env
        self._push = np.zeros(3)
        self.orientation = self.down(np.pi / 2)

    @staticmethod
    def down(angle: float) -> Point:
        """Rotation matrix (3, 3): pointing down, fingers closing along ``angle`` (rad from the world's x).

        Of the two turns the one is taken that keeps the last joint within 90 degrees of its middle; it starts at 45.
        """
        angle = wrapped(angle)
        close = -np.array([np.cos(angle), np.sin(angle), 0.0])
        return Hand.pointing(np.array([0.0, 0.0, -1.0]), close)

    @staticmethod
    def pointing(approach: Point, close: Point) -> Point:
        """Rotation matrix (3, 3): pointing along ``approach``, fingers closing along ``close`` (both of length 1)."""
        return np.column_stack([np.cross(close, approach), close, approach])

    @property
    def at(self) -> Point:
        return self._env.hand()[0]

    def action(self, target: Point, gripper: float, speed: float = 1.0) -> Vector:
        """One step towards ``target`` and the wanted orientation."""
        position, rotation = self._env.hand()
        away = target - position
        if np.linalg.norm(away) < _PUSH_M:
            self._push = np.clip(self._push + _PUSH * away, -0.5, 0.5)
        move = away * _GAIN + self._push
        way = np.empty(4)
        mujoco.mju_mat2Quat(way, (self.orientation @ rotation.T).ravel())
        turn = axis_angle(way)
        length = float(np.linalg.norm(turn))
        if length > np.pi:
            turn *= (length - 2 * np.pi) / length
        move *= min(1.0, speed / max(np.abs(move).max(), 1e-9))
        turn *= min(_TURN_GAIN, 1.0 / max(np.abs(turn).max(), 1e-9))
        return np.append(np.clip(np.concatenate([move, turn]), -1, 1), gripper).astype(np.float32)

    def go(
        self,
        target: Point,
        gripper: float,
        steps: int = 60,
        near: float = _NEAR_M,
        speed: float = 1.0,
        until: Callable[[], bool] | None = None,
    ) -> Iterator[Vector]:
        """Move until ``near`` the target and turned as wanted, or ``until`` says so, for at most ``steps``."""
        self._push = np.zeros(3)
        for _ in range(steps):
            position, rotation = self._env.hand()
            cosine = (np.trace(self.orientation @ rotation.T) - 1) / 2
            turned = np.arccos(np.clip(cosine, -1, 1)) < _NEAR_RAD
            if (turned and np.linalg.norm(target - position) < near) or (until is not None and until()):
                return
            yield self.action(target, gripper, speed)

    def fingers(self, gripper: float, steps: int = _FINGER_STEPS) -> Iterator[Vector]:
        """Open or close where the hand is."""
        here, self._push = self.at, np.zeros(3)
        for _ in range(steps):
            yield self.action(here, gripper)


def wrapped(angle: float) -> float:
    """The same direction of closing, as an angle from 45 to 225 degrees; that of the start is 90."""
    return float((angle - np.pi / 4) % np.pi + np.pi / 4)
