"""The scripted expert: it reads a task's goal and does its parts one after the other, knowing where everything is.

Covered are goals of the kinds "in" and "on" (pick a thing up from above, put it down from above). A thing is grasped
across its narrowest side, or by its rim where it is wider than the hand. A part that fails is tried again.
"""

from collections.abc import Iterator

import numpy as np

from vlm4vla.bench.libero import shapes
from vlm4vla.bench.libero.hand import CLOSE, OPEN, Hand, Point, wrapped
from vlm4vla.bench.libero.sim import PandaEnv
from vlm4vla.types import EpisodeSpec, Vector, refuse

_WIDEST = 0.074  # metres between the open fingers, with some room
_FINGER = 0.032  # how deep a thing may stand between the fingers
_ABOVE = 0.06
_REACH = 0.62  # metres from the robot's axis within which the elbow stays bent
_TRAVEL = 0.2  # the hand's height above the lowest thing while it travels, at least
_SIDE = 0.12  # what is nearer to its way has to be passed above
_TRIES = 3
_DIRECTIONS = 24
_UP = np.array([0.0, 0.0, 1.0])

COVERED = ("in", "on")


class ScriptedExpert:
    """Bound to a live environment; one action of the benchmark's spec per step."""

    def __init__(self, env: PandaEnv) -> None:
        self._env = env
        self._goals = [tuple(goal) for goal in env.sim.parsed_problem["goal_state"]]
        for goal in self._goals:
            place = env.sim.object_sites_dict.get(goal[-1])
            if goal[0] not in COVERED or (place is not None and place.joints):  # joints: it is inside of a drawer
                raise refuse(
                    f"The scripted expert cannot do {env.task!r}: its goal has the part {' '.join(goal)}",
                    possible=f"tasks whose goal has parts of the kinds {', '.join(COVERED)} only, and none in a drawer",
                    todo="Leave the task out; README.md of the benchmark lists those that the expert can do.",
                )
        self._steps: Iterator[Vector] = iter(())

    def reset(self, episode: EpisodeSpec) -> None:
        assert episode.task == self._env.task
        self._steps = self._work()

    def act(self) -> Vector:
        return next(self._steps)

    def _work(self) -> Iterator[Vector]:
        hand = Hand(self._env)
        robot = shapes.robot_geoms(self._env)
        for _ in range(_TRIES):
            for place, (kind, thing, where) in enumerate(self._goals):
                if not self._holds((kind, thing, where)):
                    yield from _Move(self._env, hand, robot, thing, where, place, len(self._goals)).steps()
        while True:
            yield hand.action(hand.at, OPEN)

    def _holds(self, goal: tuple[str, ...]) -> bool:
        return bool(self._env.sim._eval_predicate(list(goal)))


class _Move:
    """Bring one thing to one place."""

    def __init__(
        self, env: PandaEnv, hand: Hand, robot: set[int], thing: str, where: str, number: int, of: int
    ) -> None:
        self._env, self._hand, self._robot = env, hand, robot
        self._thing, self._where, self._number, self._of = thing, where, number, of
        self._geoms = shapes.geoms(env, thing)

    def steps(self) -> Iterator[Vector]:
        hand = self._hand
        ground = min(shapes.extent(self._env, shapes.geoms(self._env, n)).bottom for n in self._env.sim.objects_dict)
        grip = self._grip()
        travel = self._clear(hand.at, grip, ground + _TRAVEL)
        yield from self._rise(travel, OPEN)
        yield from hand.go(np.append(grip[:2], max(travel, grip[2] + _ABOVE)), OPEN, near=0.012)
        yield from hand.go(grip + 0.03 * _UP, OPEN, steps=20)
        yield from hand.go(grip, OPEN, steps=15, speed=0.6, near=0.008)
        yield from hand.fingers(CLOSE)
        held = shapes.extent(self._env, self._geoms)
        below = hand.at[2] - held.bottom
        target, floor, drop = self._target()
        high = self._clear(hand.at, target, ground + _TRAVEL) + below
        high = max(high, floor + below + 0.05)
        yield from self._rise(high, CLOSE)
        offset = self._origin()[:2] - hand.at[:2]
        yield from hand.go(np.append(target - offset, high), CLOSE, near=0.02)
        offset = self._origin()[:2] - hand.at[:2]
        end = np.append(target - offset, floor + below + drop)
        yield from hand.go(end + 0.03 * _UP, CLOSE, near=0.012, until=self._landed)
        yield from hand.go(end - 0.01 * _UP, CLOSE, steps=20, near=0.006, speed=0.3, until=self._landed)
        yield from hand.fingers(OPEN)
        yield from self._rise(hand.at[2] + 0.1, OPEN)

    def _clear(self, start: Point, end: Point, least: float) -> float:
        """Height above all that stands near the straight way from ``start`` to ``end``, and at least ``least``."""
        points = shapes.others(self._env, self._thing)
        way = end[:2] - start[:2]
        part = np.clip((points[:, :2] - start[:2]) @ way / max(float(way @ way), 1e-9), 0, 1)
        far = np.linalg.norm(points[:, :2] - start[:2] - part[:, None] * way, axis=1)
        near = points[far < _SIDE, 2]
        return max(least, float(near.max()) + 0.03) if len(near) else least

    def _rise(self, height: float, gripper: float) -> Iterator[Vector]:
        """Up to ``height``, and nearer to the robot where the arm is stretched: it hardly leaves that posture else."""
        at, base = self._hand.at, self._env.data.body("robot0_base").xpos[:2]
        out = at[:2] - base
        inner = base + out * min(1.0, _REACH / float(np.linalg.norm(out)))
        if at[2] < height - 0.02 or np.linalg.norm(at[:2] - inner) > 0.02:
            yield from self._hand.go(np.append(inner, max(height, at[2])), gripper, steps=40, near=0.025)

    def _origin(self) -> Point:
        return self._env.objects()[self._thing]

    def _landed(self) -> bool:
        return shapes.touches(self._env, self._geoms, self._robot)

    def _grip(self) -> Point:
        """Where to close the hand (3,), and how: of all ways the freest one that turns and stretches the arm least."""
        whole = shapes.extent(self._env, self._geoms)
        ways = self._across(whole) or self._rim(whole)
        obstacles = shapes.others(self._env, self._thing)
        base = self._env.data.body("robot0_base").xpos[:2]

        def cost(way: tuple[float, Point]) -> float:
            angle, point = way
            stretched = max(0.0, float(np.linalg.norm(point[:2] - base)) - _REACH)
            return _blocked(angle, point, obstacles) + 0.3 * abs(wrapped(angle) - np.pi / 2) + 12 * stretched

        angle, point = min(ways, key=cost)
        self._hand.orientation = self._hand.down(angle)
        return point

    def _across(self, whole: shapes.Extent) -> list[tuple[float, Point]]:
        """(angle, point) of the ways to take it between the fingers; [] where it is too wide."""
        z = max(whole.bottom + 0.012, whole.top - _FINGER)
        between = whole.points[np.abs(whole.points[:, 2] - z) < 0.02]
        near = shapes.Extent(between if len(between) >= 8 else whole.points)
        angles = np.linspace(0, np.pi, _DIRECTIONS, endpoint=False)
        widths = np.array([near.width(angle)[0] for angle in angles])
        ways = []
        for angle in angles[widths < min(_WIDEST, widths.min() + 0.002)]:
            along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
            middle = near.width(angle)[1] * along + near.width(angle + np.pi / 2)[1] * across
            ways.append((float(angle), np.append(middle, z)))
        return ways

    @staticmethod
    def _rim(whole: shapes.Extent) -> list[tuple[float, Point]]:
        """(angle, point) of the ways to take it by its rim, the fingers closing across the wall."""
        upper = whole.points[whole.points[:, 2] > whole.top - 0.015][:, :2] - whole.middle
        ways = []
        for angle in np.linspace(-np.pi, np.pi, 2 * _DIRECTIONS, endpoint=False):
            out = np.array([np.cos(angle), np.sin(angle)])
            ray = upper[np.abs(upper @ np.array([-out[1], out[0]])) < 0.02] @ out
            if len(ray) and ray.max() > 0.02:
                ways.append((float(angle), np.append(whole.middle + (ray.max() - 0.004) * out, whole.top - 0.02)))
        return ways

    def _target(self) -> tuple[Point, float, float]:
        """(where the thing's origin belongs (2,), height its bottom comes to, how far above that to let go)."""
        sim = self._env.sim
        if self._where in sim.object_sites_dict:
            site = np.array(sim.sim.data.get_site_xpos(self._where))
            size = np.array(sim.object_sites_dict[self._where].size, float)
            if self._where.endswith("contain_region"):
                shift = np.zeros(2)
                if self._of > 1:  # side by side, along x
                    shift[0] = 0.03 * (1 if self._number else -1)
                return site[:2] + shift, float(site[2] + size[2] * 0.5), 0.02
            return site[:2], float(site[2]), 0.005
        body = self._env.data.xpos[sim.obj_body_id[self._where]]
        return body[:2].copy(), float(body[2]), 0.005


def _blocked(angle: float, point: Point, obstacles: Point) -> float:
    """How much stands where fingers and hand would be: 0 nothing, each point of an obstacle a little."""
    away = obstacles - point
    along = np.abs(away[:, 0] * np.cos(angle) + away[:, 1] * np.sin(angle))
    across = np.abs(away[:, 1] * np.cos(angle) - away[:, 0] * np.sin(angle))
    fingers = (along < 0.06) & (across < 0.02) & (away[:, 2] > -0.012)
    palm = (along < 0.12) & (across < 0.05) & (away[:, 2] > 0.04)
    return 0.5 * int((fingers | palm).sum())
