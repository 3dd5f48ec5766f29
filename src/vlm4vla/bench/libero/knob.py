"""The knob of a stove: taken across its ridge, and turned with the wrist."""

from collections.abc import Iterator

import numpy as np

from vlm4vla.bench.libero import shapes
from vlm4vla.bench.libero.hand import CLOSE, OPEN, Point
from vlm4vla.bench.libero.sim import PandaEnv
from vlm4vla.bench.libero.travel import UP, Travel
from vlm4vla.types import Vector

_MORE = 0.25  # radians beyond what counts as on
_SPEED, _STEPS = 0.08, 60  # radians a step, and how many at most
_RIDGE = 0.012  # metres of the knob's top that are its ridge alone
_DEPTH = 0.022  # metres between the ridge's top and the middle of the fingers


class Knob:
    """The one joint of a stove."""

    def __init__(self, env: PandaEnv, stove: str) -> None:
        self.env = env
        thing = env.sim.get_object(stove)
        (joint,) = thing.joints
        self._joint = env.model.joint(joint)
        self.on = float(min(thing.object_properties["articulation"]["default_turnon_ranges"]))

    @property
    def angle(self) -> float:
        return float(self.env.data.qpos[self._joint.qposadr[0]])

    def turn_on(self, travel: Travel) -> Iterator[Vector]:
        """Close across its ridge, and turn hand and ridge about its axis until it is on for certain."""
        hand, axis = travel.hand, self.env.data.xanchor[self._joint.id].copy()
        grip = self._grip(axis, travel)
        yield from travel.over(grip + 0.05 * UP, OPEN)
        yield from hand.go(grip, OPEN, steps=40, near=0.008)
        yield from hand.fingers(CLOSE)
        first, turned, need = hand.orientation, 0.0, self.on + 2 * _MORE - self.angle
        for _ in range(_STEPS):
            if self.angle > self.on + _MORE:
                break
            turned = min(need, turned + _SPEED)
            cosine, sine = np.cos(turned), np.sin(turned)
            turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
            hand.orientation = turn @ first
            yield hand.action(axis + turn @ (grip - axis), CLOSE)
        yield from hand.fingers(OPEN)
        yield from travel.rise(hand.at[2] + 0.15, OPEN)
        hand.orientation = hand.down(np.pi / 2)

    def _grip(self, axis: Point, travel: Travel) -> Point:
        """Where to close (3,), with the hand turned for it: across the direction in which the ridge spreads least."""
        points = shapes.extent(self.env, shapes.body_geoms(self.env, int(self._joint.bodyid[0]))).points
        top = float(points[:, 2].max())
        ridge = points[points[:, 2] > top - _RIDGE][:, :2] - axis[:2]
        _, ways = np.linalg.eigh(np.cov(ridge.T))  # in the order of spread
        travel.hand.orientation = travel.hand.down(float(np.arctan2(ways[1, 0], ways[0, 0])))
        return np.append(axis[:2] + (ridge.min(0) + ridge.max(0)) / 2, top - _DEPTH)
