"""One short script a task, for a robot that knows where everything is: in relative actions of the benchmark.

The scripts are this project's own. The one of lifting is a part of the benchmark: it puts the block into the hand where
a task begins with one (``play_until_held``).
"""

from collections.abc import Callable

import numpy as np

from vlm4vla.bench.calvin import protocol
from vlm4vla.bench.calvin.hand import (
    CLOSE,
    COLOURS,
    DOWN,
    FRONT,
    HIGH,
    INTO_CABINET,
    OPEN,
    SPEED,
    Hand,
    Moves,
)
from vlm4vla.bench.calvin.oracle import RULES
from vlm4vla.bench.calvin.world import World

_UP_THE_FACE = np.array([0.0, 0.5, 0.866])  # along the cabinet's sloping face, the way of the lever


class Scripts(Hand):
    """The words given to a script are the parts of the task's name."""

    def play(self, task: str) -> Moves:
        """The actions of the task's script, without end: it begins again where the task is not solved at its end."""
        script = _script_of(task)
        while True:
            yield from script(self, *task.split("_"))

    def turn(self, _turn: str, way: str, light: str) -> Moves:
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
        tilt = (0.6, 0.3) if way == "off" and lever[0] > 0 else DOWN
        yield from self._over(lever[0], FRONT, CLOSE)
        yield from self._to(np.array([lever[0], FRONT, begin[2]]), tilt=tilt)
        yield from self._to(begin, tilt=tilt)
        yield from self._to(begin - side * 0.15 * _UP_THE_FACE, tilt=tilt)

    def move(self, _move: str, _slider: str, way: str) -> Moves:
        handle = self._part("slide_link") + np.array([0.14, -0.057, 0.033])
        side = 1 if way == "right" else -1
        begin = handle - np.array([side * 0.06, 0.0, 0.0])
        yield from self._over(begin[0], FRONT, CLOSE)
        yield from self._to(np.array([begin[0], FRONT, begin[2]]))
        yield from self._to(begin)
        yield from self._to(begin + np.array([side * 0.32, 0.0, 0.0]))

    def open(self, _open: str, _drawer: str) -> Moves:
        gap = self._part("drawer_link") + np.array([0.0, -0.206, 0.04])
        yield from self._over(gap[0], gap[1], CLOSE)
        yield from self._to(gap)
        yield from self._to(gap - np.array([0.0, 0.22, 0.0]))

    def close(self, _close: str, _drawer: str) -> Moves:
        front = self._part("drawer_link") + np.array([0.0, -0.30, 0.045])
        yield from self._over(front[0], front[1], CLOSE)
        yield from self._to(front)
        yield from self._to(front + np.array([0.0, 0.24, 0.0]))

    def push(self, _push: str, colour: str, _block: str, way: str) -> Moves:
        block, _ = self._block(colour)
        side = 1 if way == "right" else -1
        begin = block - np.array([side * 0.075, 0.0, 0.0])
        yield from self._over(begin[0], begin[1], CLOSE)
        yield from self._to(begin)
        yield from self._to(begin + np.array([side * 0.26, 0.0, 0.0]), speed=SPEED / 2)

    def lift(self, _lift: str, colour: str, _block: str, where: str) -> Moves:
        tilt = INTO_CABINET if where == "slider" else DOWN
        yield from self._grasp(colour, tilt)
        at = self._tool()
        yield from self._to(np.array([at[0], at[1], HIGH]), self._world.target_angles[2], tilt=tilt)

    def unstack(self, _unstack: str, _block: str) -> Moves:
        yield from self.lift("lift", self._topmost(), "block", "top")

    def push_in(self, *_words: str) -> Moves:
        """Over the front edge of the table, with the closed fingers behind the block."""
        drawer = self._part("drawer_link")
        colour = min(COLOURS, key=lambda c: self._cost_of_pushing(c, float(drawer[0])))
        block, _ = self._block(colour)
        begin = block + np.array([0.0, 0.075, 0.005])
        yield from self._over(begin[0], begin[1], CLOSE, 0.0)
        yield from self._to(begin, 0.0)
        yield from self._to(np.array([begin[0], -0.235, begin[2]]), 0.0, SPEED / 2)
        yield from self._to(np.array([begin[0], -0.235, HIGH]), 0.0)
        yield from self._grip(CLOSE)

    def place(self, _place: str, _in: str, where: str) -> Moves:
        """Only in chains: the block is in the hand already."""
        if where == "drawer":
            drawer = self._part("drawer_link")
            yield from self._let_go(np.array([drawer[0], drawer[1] - 0.08, 0.37]), DOWN)
            return
        scene = self._world.scene
        (x0, _, _), (x1, _, _) = scene.surfaces[
            "slider_right" if self._world.joint("base__slide") > 0.1 else "slider_left"
        ]
        yield from self._let_go(np.array([(x0 + x1) / 2, 0.09, 0.475]), INTO_CABINET)

    def stack(self, _stack: str, _block: str) -> Moves:
        """Only in chains: on another block that lies on the table."""
        at = self._tool()
        held = min(COLOURS, key=lambda c: float(np.linalg.norm(self._block(c)[0] - at)))
        below = min((c for c in COLOURS if c != held), key=lambda c: float(self._block(c)[0][1] > 0.03))
        yield from self._let_go(self._block(below)[0] + np.array([0.0, 0.0, 0.045]), DOWN)

    def _cost_of_pushing(self, colour: str, x: float) -> float:
        """How far a block is from the drawer's middle; far more where it lies on the shelf or in the drawer already."""
        block, _ = self._block(colour)
        return float(abs(block[0] - x) + 10.0 * bool(block[1] > 0.03 or block[2] < 0.44))

    def _topmost(self) -> str:
        return max(COLOURS, key=lambda c: float(self._block(c)[0][2]))

    def rotate(self, _rotate: str, colour: str, _block: str, way: str) -> Moves:
        yield from self._grasp(colour)
        yaw = self._world.target_angles[2] + (1.4 if way == "left" else -1.4)
        at = self._world.target_position.copy()
        yield from self._to(at, yaw, SPEED / 2)
        yield from self._grip(OPEN)
        yield from self._to(np.array([at[0], at[1], HIGH]), yaw)


_Script = Callable[..., Moves]
_SCRIPTS: dict[str, _Script] = {
    "turn": Scripts.turn,
    "move": Scripts.move,
    "open": Scripts.open,
    "close": Scripts.close,
    "push": Scripts.push,
    "rotate": Scripts.rotate,
    "lift": Scripts.lift,
    "unstack": Scripts.unstack,
    "place": Scripts.place,
    "stack": Scripts.stack,
}
"""By the first word of the task; ``push_into_drawer`` has its own."""


def _script_of(task: str) -> _Script:
    return Scripts.push_in if task == "push_into_drawer" else _SCRIPTS[task.split("_")[0]]


def play_until_held(world: World, lift: str) -> bool:
    """Lift a block as the expert does; whether the hand then holds it and touches nothing else.

    Ends at the first moment that solves ``lift`` (a task's name) with the hand clear of the furniture: only such a
    moment can begin a task of placing or stacking.
    """
    began, moves = world.facts(), Scripts(world).play(lift)
    held = {began.blocks[f"block_{lift.split('_')[1]}"].body}
    for _ in range(protocol.SUBTASK_STEPS):
        world.step_relative(next(moves).astype(np.float64))
        now = world.facts()
        if now.touched_by_robot == held and RULES[lift](began, now):
            return True
    return False
