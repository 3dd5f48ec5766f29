"""What the scripts are made of: the hand moves along straight lines, grips, lets go. Loads pybullet."""

from collections.abc import Iterator

import numpy as np
import pybullet as p

from vlm4vla.bench.calvin.scenes import BLOCKS, Array
from vlm4vla.bench.calvin.world import World
from vlm4vla.types import Vector

OPEN, CLOSE = 1.0, -1.0
SPEED = 0.6  # of the largest action
_NEAR = 0.006  # metres between tool and target at which a line counts as done
_PATIENCE = 12  # steps that the tool is given to come so near
Tilt = tuple[float, float]  # radians by which a tool that points down leans towards +x, +y (at its usual yaw)
DOWN: Tilt = (0.0, 0.0)
INTO_CABINET: Tilt = (0.0, 0.35)  # upright, the hand touches the upper edge of the cabinet
STRAIGHT = np.pi / 2  # its yaw with the fingers side by side along x
HIGH = 0.60  # metres, above everything in front of the cabinet
FRONT = -0.12  # y in front of the cabinet

COLOURS: tuple[str, ...] = tuple(b.removeprefix("block_") for b in BLOCKS)

Moves = Iterator[Vector]


class Hand:
    """The robot of a world. Each motion yields the actions that make it; whoever takes them executes them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._gripper = float(world.gripper_action)

    def _action(self, way: Array, turn: Array) -> Vector:
        return np.array([*way, *turn, self._gripper], np.float32)

    def _to(self, goal: Array, yaw: float = STRAIGHT, speed: float = SPEED, tilt: Tilt = DOWN) -> Moves:
        """Move the target to ``goal`` (3), then wait for the tool."""
        world, angles = self._world, np.array([np.pi - tilt[0], -tilt[1], yaw])

        def left() -> tuple[Array, Array, float]:
            way, turn = (goal - world.target_position) / 0.02, (angles - world.target_angles) / 0.05
            return way, turn, float(max(np.abs(way).max(), np.abs(turn).max()))

        for _ in range(int(left()[2] / speed) + 2):  # noise on the actions moves the target: it is never quite there
            way, turn, furthest = left()
            if furthest < 1e-3:
                break
            scale = min(1.0, speed / furthest)
            yield self._action(way * scale, turn * scale)
        for _ in range(_PATIENCE):
            if np.linalg.norm(self._tool() - goal) < _NEAR:
                return
            yield self._action(np.zeros(3), np.zeros(3))

    def _grip(self, gripper: float, steps: int = 8) -> Moves:
        self._gripper = gripper
        for _ in range(steps):
            yield self._action(np.zeros(3), np.zeros(3))

    def _over(self, x: float, y: float, gripper: float, yaw: float = STRAIGHT) -> Moves:
        """Away from whatever is near, then high above (x, y)."""
        self._gripper = gripper
        at = self._tool()
        yield from self._to(np.array([at[0], min(at[1], FRONT), max(at[2], HIGH)]))
        yield from self._to(np.array([x, min(y, FRONT), HIGH]), yaw)
        yield from self._to(np.array([x, y, HIGH]), yaw)

    def _tool(self) -> Array:
        return self._world.robot_obs()[:3]

    def _part(self, link: str) -> Array:
        """World position of a link frame of the table."""
        world = self._world
        found = p.getLinkState(
            world.table, world.links[link], computeForwardKinematics=True, physicsClientId=world.client
        )
        return np.array(found[4])

    def _block(self, colour: str) -> tuple[Array, float]:
        """Position of a block and the tool's yaw with which the fingers hold its short sides."""
        pose = self._world.scene_obs()[self._world.scene.place(f"block_{colour}")]
        return pose[:3], float((pose[5] - STRAIGHT + np.pi / 2) % np.pi - np.pi / 2 + STRAIGHT)

    def _grasp(self, colour: str, tilt: Tilt = DOWN) -> Moves:
        block, yaw = self._block(colour)
        yield from self._over(block[0], block[1], OPEN, yaw)
        block, yaw = self._block(colour)
        yield from self._to(np.array([block[0], block[1], HIGH - 0.06]), yaw, tilt=tilt)
        yield from self._to(block, yaw, tilt=tilt)
        yield from self._grip(CLOSE)

    def _let_go(self, colour: str, goal: Array, tilt: Tilt) -> Moves:
        """Set the block in the hand down with its middle at ``goal`` (3): it need not be held by its middle."""
        yield from self._over(goal[0], goal[1], CLOSE)
        yield from self._to(np.array([goal[0], goal[1], HIGH - 0.06]), tilt=tilt)
        at = goal - (self._block(colour)[0] - self._tool())
        yield from self._to(at, speed=SPEED / 2, tilt=tilt)
        yield from self._grip(OPEN)
        yield from self._to(np.array([at[0], min(at[1], 0.0), HIGH]), tilt=tilt)
