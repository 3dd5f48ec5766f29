"""A scripted robot that knows where everything is: one short script a task, in the benchmark's relative actions.

The scripts are this project's own. They move the target of the tool along straight lines, watch the tool follow, and
begin again when a task is not solved at their end.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pybullet as p

from vlm4vla.bench.calvin.scenes import BLOCKS, Array
from vlm4vla.bench.calvin.sim import TableEnv
from vlm4vla.types import EpisodeSpec, Vector

OPEN, CLOSE = 1.0, -1.0
_SPEED = 0.6  # of the largest action
_NEAR = 0.006  # metres between tool and target at which a line counts as done
_PATIENCE = 12  # steps that the tool is given to come so near
_Tilt = tuple[float, float]  # radians by which a tool that points down leans towards +x, +y (at its usual yaw)
_DOWN: _Tilt = (0.0, 0.0)
_INTO_CABINET: _Tilt = (0.0, 0.35)  # upright, the hand touches the upper edge of the cabinet
_STRAIGHT = np.pi / 2  # its yaw with the fingers side by side along x
_HIGH = 0.60  # metres, above everything in front of the cabinet
_FRONT = -0.12  # y in front of the cabinet
_UP_THE_FACE = np.array([0.0, 0.5, 0.866])  # along the cabinet's sloping face, the way of the lever

_COLOURS: tuple[str, ...] = tuple(b.removeprefix("block_") for b in BLOCKS)

_Moves = Iterator[Vector]


class ScriptedExpert:
    """Bound to a live environment; plays the script of the subtask that is to be solved, again and again."""

    def __init__(self, env: TableEnv) -> None:
        self._env, self._world = env, env.world
        self._gripper = OPEN
        self._moves: _Moves = iter(())
        self._doing = ""

    def reset(self, episode: EpisodeSpec) -> None:
        assert episode.task == self._env.task
        self._doing = ""

    def act(self) -> Vector:
        task = self._env.subtask
        if task != self._doing:
            self._doing, self._moves = task, self._play(task)
        return next(self._moves)

    def _play(self, task: str) -> _Moves:
        script = script_of(task)
        self._gripper = float(self._world.gripper_action)
        while True:
            yield from script(self, *task.split("_"))

    # What scripts are made of

    def _action(self, way: Array, turn: Array) -> Vector:
        return np.array([*way, *turn, self._gripper], np.float32)

    def _to(self, goal: Array, yaw: float = _STRAIGHT, speed: float = _SPEED, tilt: _Tilt = _DOWN) -> _Moves:
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

    def _grip(self, gripper: float, steps: int = 8) -> _Moves:
        self._gripper = gripper
        for _ in range(steps):
            yield self._action(np.zeros(3), np.zeros(3))

    def _over(self, x: float, y: float, gripper: float, yaw: float = _STRAIGHT) -> _Moves:
        """Away from whatever is near, then high above (x, y)."""
        self._gripper = gripper
        at = self._tool()
        yield from self._to(np.array([at[0], min(at[1], _FRONT), max(at[2], _HIGH)]))
        yield from self._to(np.array([x, min(y, _FRONT), _HIGH]), yaw)
        yield from self._to(np.array([x, y, _HIGH]), yaw)

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
        return pose[:3], float((pose[5] - _STRAIGHT + np.pi / 2) % np.pi - np.pi / 2 + _STRAIGHT)

    # Scripts; words are the parts of the task's name

    def turn(self, _turn: str, way: str, light: str) -> _Moves:
        if light == "led":
            button = self._part("button_link")
            yield from self._over(button[0], button[1], CLOSE)
            yield from self._to(np.array([button[0], button[1], 0.455]))
            yield from self._to(np.array([button[0], button[1], 0.55]))
            return
        lever = self._part("switch_link") + np.array([0.0, -0.044, 0.034])
        lever[0] -= 0.04 * np.sign(lever[0])  # the near end: the far one is hard to reach from above
        side = 1 if way == "off" else -1
        begin = lever + side * (0.04 if way == "off" else 0.055) * _UP_THE_FACE
        # A tool that points straight down does not reach the top of the far lever.
        tilt = (0.6, 0.3) if way == "off" and lever[0] > 0 else _DOWN
        yield from self._over(lever[0], _FRONT, CLOSE)
        yield from self._to(np.array([lever[0], _FRONT, begin[2]]), tilt=tilt)
        yield from self._to(begin, tilt=tilt)
        yield from self._to(begin - side * 0.15 * _UP_THE_FACE, tilt=tilt)

    def move(self, _move: str, _slider: str, way: str) -> _Moves:
        handle = self._part("slide_link") + np.array([0.14, -0.057, 0.033])
        side = 1 if way == "right" else -1
        begin = handle - np.array([side * 0.06, 0.0, 0.0])
        yield from self._over(begin[0], _FRONT, CLOSE)
        yield from self._to(np.array([begin[0], _FRONT, begin[2]]))
        yield from self._to(begin)
        yield from self._to(begin + np.array([side * 0.32, 0.0, 0.0]))

    def open(self, _open: str, _drawer: str) -> _Moves:
        gap = self._part("drawer_link") + np.array([0.0, -0.206, 0.04])
        yield from self._over(gap[0], gap[1], CLOSE)
        yield from self._to(gap)
        yield from self._to(gap - np.array([0.0, 0.22, 0.0]))

    def close(self, _close: str, _drawer: str) -> _Moves:
        front = self._part("drawer_link") + np.array([0.0, -0.30, 0.045])
        yield from self._over(front[0], front[1], CLOSE)
        yield from self._to(front)
        yield from self._to(front + np.array([0.0, 0.24, 0.0]))

    def push(self, _push: str, colour: str, _block: str, way: str) -> _Moves:
        block, _ = self._block(colour)
        side = 1 if way == "right" else -1
        begin = block - np.array([side * 0.075, 0.0, 0.0])
        yield from self._over(begin[0], begin[1], CLOSE)
        yield from self._to(begin)
        yield from self._to(begin + np.array([side * 0.26, 0.0, 0.0]), speed=_SPEED / 2)

    def lift(self, _lift: str, colour: str, _block: str, where: str) -> _Moves:
        tilt = _INTO_CABINET if where == "slider" else _DOWN
        yield from self._grasp(colour, tilt)
        at = self._tool()
        yield from self._to(np.array([at[0], at[1], _HIGH]), self._world.target_angles[2], tilt=tilt)

    def unstack(self, _unstack: str, _block: str) -> _Moves:
        yield from self.lift("lift", self._topmost(), "block", "top")

    def push_in(self, *_words: str) -> _Moves:
        """Over the front edge of the table, with the closed fingers behind the block."""
        drawer = self._part("drawer_link")
        colour = min(_COLOURS, key=lambda c: self._cost_of_pushing(c, float(drawer[0])))
        block, _ = self._block(colour)
        begin = block + np.array([0.0, 0.075, 0.005])
        yield from self._over(begin[0], begin[1], CLOSE, 0.0)
        yield from self._to(begin, 0.0)
        yield from self._to(np.array([begin[0], -0.235, begin[2]]), 0.0, _SPEED / 2)
        yield from self._to(np.array([begin[0], -0.235, _HIGH]), 0.0)
        yield from self._grip(CLOSE)

    def place(self, _place: str, _in: str, where: str) -> _Moves:
        """Only in chains: the block is in the hand already."""
        if where == "drawer":
            drawer = self._part("drawer_link")
            yield from self._let_go(np.array([drawer[0], drawer[1] - 0.08, 0.37]), _DOWN)
            return
        scene = self._world.scene
        (x0, _, _), (x1, _, _) = scene.surfaces[
            "slider_right" if self._world.joint("base__slide") > 0.1 else "slider_left"
        ]
        yield from self._let_go(np.array([(x0 + x1) / 2, 0.09, 0.475]), _INTO_CABINET)

    def stack(self, _stack: str, _block: str) -> _Moves:
        """Only in chains: on another block that lies on the table."""
        at = self._tool()
        held = min(_COLOURS, key=lambda c: float(np.linalg.norm(self._block(c)[0] - at)))
        below = min((c for c in _COLOURS if c != held), key=lambda c: float(self._block(c)[0][1] > 0.03))
        yield from self._let_go(self._block(below)[0] + np.array([0.0, 0.0, 0.045]), _DOWN)

    def _let_go(self, goal: Array, tilt: _Tilt) -> _Moves:
        yield from self._over(goal[0], goal[1], CLOSE)
        yield from self._to(np.array([goal[0], goal[1], _HIGH - 0.06]), tilt=tilt)
        yield from self._to(goal, speed=_SPEED / 2, tilt=tilt)
        yield from self._grip(OPEN)
        yield from self._to(np.array([goal[0], min(goal[1], 0.0), _HIGH]), tilt=tilt)

    def _cost_of_pushing(self, colour: str, x: float) -> float:
        """How far a block is from the drawer's middle; far more where it lies on the shelf or in the drawer already."""
        block, _ = self._block(colour)
        return float(abs(block[0] - x) + 10.0 * bool(block[1] > 0.03 or block[2] < 0.44))

    def _topmost(self) -> str:
        return max(_COLOURS, key=lambda c: float(self._block(c)[0][2]))

    def rotate(self, _rotate: str, colour: str, _block: str, way: str) -> _Moves:
        yield from self._grasp(colour)
        yaw = self._world.target_angles[2] + (1.4 if way == "left" else -1.4)
        at = self._world.target_position.copy()
        yield from self._to(at, yaw, _SPEED / 2)
        yield from self._grip(OPEN)
        yield from self._to(np.array([at[0], at[1], _HIGH]), yaw)

    def _grasp(self, colour: str, tilt: _Tilt = _DOWN) -> _Moves:
        block, yaw = self._block(colour)
        yield from self._over(block[0], block[1], OPEN, yaw)
        block, yaw = self._block(colour)
        yield from self._to(np.array([block[0], block[1], _HIGH - 0.06]), yaw, tilt=tilt)
        yield from self._to(block, yaw, tilt=tilt)
        yield from self._grip(CLOSE)


_Script = Callable[..., _Moves]
_SCRIPTS: dict[str, _Script] = {
    "turn": ScriptedExpert.turn,
    "move": ScriptedExpert.move,
    "open": ScriptedExpert.open,
    "close": ScriptedExpert.close,
    "push": ScriptedExpert.push,
    "rotate": ScriptedExpert.rotate,
    "lift": ScriptedExpert.lift,
    "unstack": ScriptedExpert.unstack,
    "place": ScriptedExpert.place,
    "stack": ScriptedExpert.stack,
}
"""By the first word of the task; ``push_into_drawer`` has its own."""


def script_of(task: str) -> _Script:
    return ScriptedExpert.push_in if task == "push_into_drawer" else _SCRIPTS[task.split("_")[0]]
