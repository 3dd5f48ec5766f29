"""Pick one thing up from above and put it down from above, on something or in it."""

from collections.abc import Iterator

import numpy as np

from vlm4vla.bench.libero import grasp, shapes
from vlm4vla.bench.libero.drawer import Drawer
from vlm4vla.bench.libero.hand import CLOSE, OPEN, Point
from vlm4vla.bench.libero.travel import UP, Travel
from vlm4vla.types import Vector

_ABOVE = 0.06
_SHAKES = 16  # steps


class Carry:
    """``thing`` to ``where``, the ``number``-th of ``of`` things that belong there; into ``drawer`` if there is one."""

    def __init__(self, travel: Travel, thing: str, where: str, number: int, of: int, drawer: Drawer | None) -> None:
        self._travel, self._env, self._hand = travel, travel.env, travel.hand
        self._thing, self._where, self._number, self._of, self._drawer = thing, where, number, of, drawer
        self._geoms = shapes.geoms(self._env, thing)
        self._robot = shapes.robot_geoms(self._env)

    def steps(self) -> Iterator[Vector]:
        hand, travel = self._hand, self._travel
        angle, grip = self._grip()
        hand.orientation = hand.down(angle)
        height = travel.clear(grip, self._thing)
        yield from travel.rise(height, OPEN)
        yield from hand.go(np.append(grip[:2], max(height, grip[2] + _ABOVE)), OPEN, near=0.012)
        yield from hand.go(grip + 0.03 * UP, OPEN, steps=20)
        yield from hand.go(grip, OPEN, steps=15, speed=0.6, near=0.008)
        yield from hand.fingers(CLOSE)
        target, floor, drop = self._target()
        below = self._below()
        high = max(travel.clear(target, self._thing) + 0.03, floor + 0.05)
        yield from travel.rise(high + below, CLOSE)
        below = self._below()  # it hangs lower than it stood
        high += below
        offset = self._origin()[:2] - hand.at[:2]
        yield from hand.go(np.append(target - offset, high), CLOSE, near=0.02)
        offset = self._origin()[:2] - hand.at[:2]
        end = np.append(target - offset, floor + below + drop)
        yield from hand.go(end + 0.03 * UP, CLOSE, near=0.012, until=self._landed)
        yield from hand.go(end - 0.01 * UP, CLOSE, steps=20, near=0.006, speed=0.3, until=self._landed)
        yield from hand.fingers(OPEN)
        yield from self._leave(angle)
        yield from travel.rise(hand.at[2] + 0.1, OPEN)

    def _leave(self, angle: float) -> Iterator[Vector]:
        """A little up; a thing nearly as wide as the open hand may come along, wedged in: it is shaken off."""
        hand, lying = self._hand, self._origin()[2]

        def comes_along() -> bool:
            return bool(self._origin()[2] > lying + 0.01)

        yield from hand.go(hand.at + 0.03 * UP, OPEN, steps=6, until=comes_along)
        for step in range(_SHAKES if comes_along() else 0):
            side = 1.0 if step % 4 < 2 else -1.0
            yield hand.action(hand.at + side * 0.03 * np.array([np.cos(angle), np.sin(angle), 0.0]), OPEN)

    def _origin(self) -> Point:
        return self._env.objects()[self._thing]

    def _below(self) -> float:
        """How far the thing reaches below the fingers."""
        return float(self._hand.at[2] - shapes.extent(self._env, self._geoms).bottom)

    def _landed(self) -> bool:
        return shapes.touches(self._env, self._geoms, self._robot)

    def _grip(self) -> grasp.Way:
        """The freest way to take it that turns and stretches the arm least."""
        whole = shapes.extent(self._env, self._geoms)
        prefer = None  # above a drawer the hand is broad along the front, not into the cabinet
        if self._drawer is not None:
            prefer = float(np.arctan2(self._drawer.out[1], self._drawer.out[0]) + np.pi / 2)
        return grasp.best(whole, shapes.others(self._env, self._thing), self._travel.base, prefer)

    def _target(self) -> tuple[Point, float, float]:
        """(where the thing's origin belongs (2,), height its bottom comes to, how far above that to let go)."""
        sim = self._env.sim
        if self._drawer is not None:
            middle, floor = self._drawer.inside()
            return middle, floor, 0.015
        if self._where in sim.object_sites_dict:
            site = np.array(sim.sim.data.get_site_xpos(self._where))
            size = np.array(sim.object_sites_dict[self._where].size, float)
            shift = np.zeros(2)
            if self._where.endswith("contain_region"):
                if self._of > 1:  # side by side, along x
                    shift[0] = 0.03 * (1 if self._number else -1)
                return site[:2] + shift, float(site[2] + size[2] * 0.5), 0.02
            if self._of > 1:
                shift[0] = 0.047 * (-1 if self._number else 1)
            return site[:2] + shift, float(site[2]), 0.005
        body = self._env.data.xpos[sim.obj_body_id[self._where]]
        return body[:2].copy(), float(body[2]), 0.005
