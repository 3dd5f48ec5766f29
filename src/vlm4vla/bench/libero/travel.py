"""The hand's way from one place to another: up, above everything that stands near the way, and there."""

from collections.abc import Iterator

import numpy as np

from vlm4vla.bench.libero import shapes
from vlm4vla.bench.libero.hand import Hand, Point
from vlm4vla.bench.libero.sim import PandaEnv
from vlm4vla.types import Vector

REACH = 0.62  # metres from the robot's axis within which the elbow stays bent
UP = np.array([0.0, 0.0, 1.0])
_TRAVEL = 0.2  # the hand's height above the lowest thing while it travels, at least
_SIDE = 0.12  # what is nearer to its way has to be passed above


class Travel:
    """Bound to a live environment and its hand."""

    def __init__(self, env: PandaEnv, hand: Hand) -> None:
        self.env, self.hand = env, hand

    @property
    def base(self) -> Point:
        """Where the robot's axis stands (2,)."""
        return np.asarray(self.env.data.body("robot0_base").xpos[:2])

    def clear(self, end: Point, without: str = "") -> float:
        """Height above all that stands near the straight way to ``end``, but the thing ``without``."""
        ground = min(shapes.extent(self.env, shapes.geoms(self.env, n)).bottom for n in self.env.sim.objects_dict)
        points, start = shapes.others(self.env, without), self.hand.at
        way = end[:2] - start[:2]
        part = np.clip((points[:, :2] - start[:2]) @ way / max(float(way @ way), 1e-9), 0, 1)
        far = np.linalg.norm(points[:, :2] - start[:2] - part[:, None] * way, axis=1)
        near = points[far < _SIDE, 2]
        least = ground + _TRAVEL
        return max(least, float(near.max()) + 0.03) if len(near) else least

    def rise(self, height: float, gripper: float) -> Iterator[Vector]:
        """Up to ``height``, and nearer to the robot where the arm is stretched: it hardly leaves that posture else."""
        at, base = self.hand.at, self.base
        out = at[:2] - base
        inner = base + out * min(1.0, REACH / float(np.linalg.norm(out)))
        if at[2] < height - 0.02 or np.linalg.norm(at[:2] - inner) > 0.02:
            yield from self.hand.go(np.append(inner, max(height, at[2])), gripper, steps=40, near=0.025)

    def over(self, point: Point, gripper: float) -> Iterator[Vector]:
        """To the place above ``point`` (3,), turned as the hand's orientation says."""
        height = self.clear(point)
        yield from self.rise(height, gripper)
        yield from self.hand.go(np.append(point[:2], max(height, point[2])), gripper, near=0.02)
