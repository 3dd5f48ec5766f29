"""Drawers: where they are, how they are pulled open by the handle, and pushed shut."""

from collections.abc import Iterator

import numpy as np

from vlm4vla.bench.libero import grasp, shapes
from vlm4vla.bench.libero.hand import CLOSE, OPEN, Point
from vlm4vla.bench.libero.sim import PandaEnv
from vlm4vla.bench.libero.travel import UP, Travel
from vlm4vla.types import Vector

_BAR = 0.017  # metres, the thickness of a handle's bar
_PULL_TILT, _PUSH_TILT = np.deg2rad(20), np.deg2rad(50)  # of the hand below the horizontal
_ROOM = 0.05  # metres beside an open drawer
_OVER = 0.005  # metres that a drawer is moved beyond what counts as open or shut


class Drawer:
    """The drawer that a region of the goal belongs to."""

    def __init__(self, env: PandaEnv, region: str) -> None:
        self.env, self.region = env, region
        site = env.sim.object_sites_dict[region]
        (joint,) = site.joints
        self._joint = env.model.joint(joint)
        limits = env.sim.get_object(site.parent_name).object_properties["articulation"]
        self._opens = float(np.sign(np.sum(limits["default_open_ranges"])))
        self._enough: float = min(abs(x) for x in limits["default_open_ranges"])

    @property
    def out(self) -> Point:
        """Direction (3,) in which it opens."""
        return np.asarray(self.env.data.xaxis[self._joint.id] * self._opens)

    @property
    def width(self) -> float:
        """Metres by which it is open."""
        return float(self.env.data.qpos[self._joint.qposadr[0]] * self._opens)

    @property
    def body(self) -> int:
        return int(self._joint.bodyid[0])

    @property
    def full(self) -> float:
        """``width`` of the open drawer."""
        return self._enough + _OVER

    def is_open(self) -> bool:
        return self.width > self.full

    def has_room(self) -> bool:
        """Whether it is open wide enough to put something in."""
        return self.width > 0.8 * self._enough

    def is_shut(self) -> bool:
        return self.width < -_OVER

    def handle(self) -> Point:
        """The middle (3,) of its handle's bar: what of it is farthest out."""
        points = shapes.extent(self.env, shapes.body_geoms(self.env, self.body)).points
        along = points @ self.out
        bar = points[along > along.max() - _BAR]
        return np.asarray((bar.min(0) + bar.max(0)) / 2)

    def inside(self) -> tuple[Point, float]:
        """(middle of the part that is free from above when it is open (2,), height of its floor)."""
        data = self.env.sim.sim.data
        site, matrix = data.get_site_xpos(self.region), data.get_site_xmat(self.region)
        half = np.abs(matrix @ np.array(self.env.sim.object_sites_dict[self.region].size, float))
        return np.asarray((site + 0.01 * self.out)[:2]), float(site[2] - half[2])


def make_room(travel: Travel, drawer: Drawer, thing: str) -> Iterator[Vector]:
    """Drag a bowl or mug that an open drawer would stand above to beside its corner, with closed fingers in it."""
    hand, env, side, out = travel.hand, travel.env, _away(travel, drawer), drawer.out
    geoms = shapes.geoms(env, thing)
    whole = shapes.extent(env, geoms)
    opened = shapes.extent(env, shapes.body_geoms(env, drawer.body)).points + (drawer.full - drawer.width) * out
    beside = (whole.points @ side).max() < (opened @ side).min() - _ROOM
    if beside or grasp.between(whole) or grasp.closed_above(whole):
        return
    corner = (opened @ side).min() * side + (opened @ out).max() * out
    target = (corner + _ROOM * (out - side))[:2]
    way = target - whole.middle
    way /= np.linalg.norm(way)
    hand.orientation = hand.down(np.pi / 2)
    deep = np.append(whole.middle, whole.bottom + 0.025)
    yield from travel.over(deep, CLOSE)
    yield from hand.go(deep, CLOSE, steps=40, near=0.012)

    def there() -> bool:
        return float((target - shapes.extent(env, geoms).middle) @ way) < 0.01

    yield from hand.go(np.append(target + 0.06 * way, deep[2]), CLOSE, steps=30, speed=0.6, until=there)
    yield from travel.rise(hand.at[2] + 0.1, OPEN)


def pull(travel: Travel, drawer: Drawer) -> Iterator[Vector]:
    """Open it: take the bar between the fingers from the front, one above and one below, and draw."""
    hand, out = travel.hand, drawer.out
    approach = -np.cos(_PULL_TILT) * out - np.sin(_PULL_TILT) * UP
    hand.orientation = hand.pointing(approach, np.cross(approach, _away(travel, drawer)))
    yield from _in_front(travel, drawer, drawer.handle() - 0.1 * approach, OPEN)
    yield from hand.go(drawer.handle() + 0.004 * approach, OPEN, steps=30, speed=0.5, near=0.006)
    yield from hand.fingers(CLOSE)
    yield from hand.go(hand.at + 0.2 * out, CLOSE, steps=70, until=drawer.is_open)
    yield from hand.fingers(OPEN)
    yield from hand.go(hand.at - 0.1 * approach, OPEN, steps=20, near=0.03)
    hand.orientation = hand.down(np.pi / 2)
    yield from travel.rise(hand.at[2] + 0.1, OPEN)


def push(travel: Travel, drawer: Drawer) -> Iterator[Vector]:
    """Shut it: press closed fingers against the bar. The hand leans back, below what is above the drawer."""
    hand, out = travel.hand, drawer.out
    approach = -np.cos(_PUSH_TILT) * out - np.sin(_PUSH_TILT) * UP
    side = _away(travel, drawer)
    hand.orientation = hand.pointing(approach, side)
    yield from _in_front(travel, drawer, drawer.handle() + 0.08 * out, CLOSE)
    for _ in range(80):
        if drawer.is_shut():
            break
        yield hand.action(drawer.handle() - 0.03 * out, CLOSE, speed=0.8)
    yield from hand.go(hand.at + 0.1 * out, CLOSE, steps=20, near=0.03)
    yield from travel.rise(hand.at[2] + 0.1, OPEN)


def _away(travel: Travel, drawer: Drawer) -> Point:
    """The horizontal direction (3,) along its front that leads away from the robot."""
    side = np.cross(UP, drawer.out)
    return np.asarray(side * np.sign(side[:2] @ (drawer.handle()[:2] - travel.base)))


def _in_front(travel: Travel, drawer: Drawer, point: Point, gripper: float) -> Iterator[Vector]:
    yield from travel.over(point + 0.05 * drawer.out, gripper)
    yield from travel.hand.go(point, gripper, near=0.015)
