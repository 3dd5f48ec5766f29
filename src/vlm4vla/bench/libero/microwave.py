"""The microwave: a thing is put in by its handle, from the front, and the door is swung shut."""

from collections.abc import Callable, Iterator

import numpy as np

from vlm4vla.bench.libero import shapes
from vlm4vla.bench.libero.hand import CLOSE, OPEN, Point
from vlm4vla.bench.libero.sim import PandaEnv
from vlm4vla.bench.libero.travel import UP, Travel
from vlm4vla.types import Vector

_TILT = np.deg2rad(30)  # of the hand below the horizontal
_LEVER = 0.19  # metres from the hinge at which the door is pushed
_THICK = 0.03  # of the door's outside, from the hinge's plane
_WIDE = -1.8  # radians of an open door that is in nobody's way
_SHUT = 0.002  # radians beyond what counts as shut


class Microwave:
    def __init__(self, env: PandaEnv, name: str) -> None:
        self.env, self.name = env, name
        thing = env.sim.get_object(name)
        (joint,) = thing.joints
        self._joint = env.model.joint(joint)
        self._limit = float(min(thing.object_properties["articulation"]["default_close_ranges"]))

    @property
    def inward(self) -> Point:
        """Direction (3,) into it: its own second axis."""
        return np.asarray(self.env.data.xmat[self.env.sim.obj_body_id[self.name]].reshape(3, 3)[:, 1])

    @property
    def angle(self) -> float:
        """Of the door, in radians: 0 is shut, less is open."""
        return float(self.env.data.qpos[self._joint.qposadr[0]])

    def is_shut(self) -> bool:
        return self.angle > self._limit + _SHUT

    def floor(self) -> Point:
        """Middle (3,) of its floor's upper side: of its shapes the lowest one's."""
        lowest = min(
            (shapes.extent(self.env, [g]) for g in shapes.geoms(self.env, self.name)), key=lambda found: found.top
        )
        return np.append(lowest.middle, lowest.top)

    def put_in(self, travel: Travel, thing: str) -> Iterator[Vector]:
        """Take the thing by the part that stands out towards us, its handle, and set it down in the middle."""
        if self.angle > _WIDE:
            yield from self.open_wide(travel)
        hand, inward = travel.hand, self.inward
        geoms = shapes.geoms(self.env, thing)
        side = np.cross(inward, UP)
        approach = np.cos(_TILT) * inward - np.sin(_TILT) * UP
        hand.orientation = hand.pointing(approach, side)
        whole = shapes.extent(self.env, geoms)
        along = whole.points @ inward
        handle = whole.points[along < along.min() + 0.012]
        grip = (handle.min(0) + handle.max(0)) / 2 + 0.006 * inward
        before = grip - 0.1 * approach
        yield from travel.over(before, OPEN)
        yield from hand.go(before, OPEN, steps=30, near=0.015)
        yield from hand.go(grip, OPEN, steps=30, speed=0.5, near=0.006)
        yield from hand.fingers(CLOSE)
        held = shapes.extent(self.env, geoms)
        offset, below = self.env.objects()[thing] - hand.at, hand.at[2] - held.bottom
        floor = self.floor()
        entry = floor - 0.2 * inward
        height = floor[2] + below + 0.012
        yield from hand.go(hand.at + 0.06 * UP, CLOSE, steps=20, near=0.02)
        yield from hand.go(np.append(entry[:2] - offset[:2], height), CLOSE, near=0.015)
        yield from hand.go(np.append(floor[:2] - offset[:2], height), CLOSE, steps=40, speed=0.5, near=0.012)
        yield from hand.go(hand.at - 0.03 * UP, CLOSE, steps=10, speed=0.3, until=lambda: self._stands(geoms))
        yield from hand.fingers(OPEN)
        # Straight back and straight up, tilted as it is: the open door stands close beside the hand.
        yield from hand.go(hand.at - 0.14 * inward, OPEN, steps=25, near=0.03)
        yield from hand.go(hand.at + 0.25 * UP, OPEN, steps=20, near=0.05)

    def _stands(self, geoms: list[int]) -> bool:
        return shapes.touches(self.env, geoms, shapes.robot_geoms(self.env))

    def open_wide(self, travel: Travel) -> Iterator[Vector]:
        """Push the open door from its inside, out of the way of the hand, which is broader than a mug."""
        yield from self._swing(travel, -1.0, lambda: self.angle < _WIDE)

    def shut(self, travel: Travel) -> Iterator[Vector]:
        """Push the door from its outside until it is shut."""
        yield from self._swing(travel, 1.0, self.is_shut)

    def _swing(self, travel: Travel, side: float, until: Callable[[], bool]) -> Iterator[Vector]:
        """Sweep the door round with closed fingers, near its upper edge; ``side``: 1 from outside, -1 from inside."""
        hand, across = travel.hand, np.cross(self.inward, UP)
        hand.orientation = hand.down(float(np.arctan2(across[1], across[0])))
        # High above the door first, and round it only there: a turning hand sweeps more than its fingers.
        yield from travel.over(self._beside(side, 0.06) + 0.15 * UP, CLOSE)
        yield from hand.go(self._beside(side, 0.06), CLOSE, steps=40, near=0.015)
        for _ in range(140):
            if until():
                break
            yield hand.action(self._beside(side, -0.03), CLOSE, speed=0.8)
        yield from hand.go(self._beside(side, 0.06), CLOSE, steps=15, near=0.03)
        yield from hand.go(hand.at + 0.15 * UP, OPEN, steps=20, near=0.04)

    def _beside(self, side: float, away: float) -> Point:
        """A point (3,) ``away`` from the door's outside or inside, where the hand pushes, as the door stands now."""
        door = int(self._joint.bodyid[0])
        matrix = self.env.data.xmat[door].reshape(3, 3)
        top = shapes.extent(self.env, shapes.body_geoms(self.env, door)).top
        out = -side * (away + (_THICK if side > 0 else 0.0))
        point = self.env.data.xanchor[self._joint.id] + _LEVER * matrix[:, 0] + out * matrix[:, 1]
        return np.append(point[:2], top - 0.02)
