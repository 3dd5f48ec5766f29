"""One short script a task, for a robot that knows where everything is: in relative actions of the benchmark.

The scripts are this project's own. The one of lifting is a part of the benchmark: it puts the block into the hand where
a task begins with one (``play_until_held``).
"""

from collections.abc import Callable, Generator

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
    Tilt,
)
from vlm4vla.bench.calvin.oracle import RULES
from vlm4vla.bench.calvin.scenes import Array
from vlm4vla.bench.calvin.world import World
from vlm4vla.types import Vector

_UP_THE_FACE = np.array([0.0, 0.5, 0.866])  # along the cabinet's sloping face, the way of the lever
_DOOR = 0.28  # metres, its width
_HAND = 0.095  # half the width of the hand
_LEAN = 0.25  # radians
_CLEAR = 0.012  # metres between the table and a block that is being turned
_IN_HAND = 0.06  # metres between tool and a block that is held, at most
_ABOVE_TABLE = 0.475  # height of the middle of a block that lies on nothing but the table, at most
_SIDES = 0.045  # metres from an end of the surface on the shelf to the door or the wall
_APART = 0.085  # metres between a block on the shelf and the hand that sets another one down


class Scripts(Hand):
    """The words given to a script are the parts of the task's name."""

    _colour = ""  # of the block that is to be placed

    def play(self, task: str, carries: bool = True) -> Moves:
        """The actions of the task's script, without end: it begins again where the task is not solved at its end.

        ``carries``: whether a block that is in the hand is to stay there.
        """
        script = _script_of(task)
        if not carries:
            yield from self.put_down()
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
        tilt = self._into_cabinet(float(self._block(colour)[0][0])) if where == "slider" else DOWN
        yield from self._grasp(colour, tilt)
        at = self._tool()
        yield from self._to(np.array([at[0], at[1], HIGH]), self._world.target_angles[2], tilt=tilt)

    def _into_cabinet(self, x: float) -> Tilt:
        """How the hand leans that reaches the shelf at ``x``: away from the door, if it would touch that."""
        left = float(self._part("slide_link")[0])
        if left - _HAND < x < left + _DOOR + _HAND:
            return (_LEAN if x < left + _DOOR / 2 else -_LEAN, INTO_CABINET[1])
        return INTO_CABINET

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
        held = yield from self._taken_up()
        if where == "drawer":
            drawer = self._part("drawer_link")
            yield from self._let_go(held, np.array([drawer[0], drawer[1] - 0.08, 0.37]), DOWN)
        else:
            goal = self._free_on_shelf(held)
            yield from self._let_go(held, goal, self._into_cabinet(float(goal[0])))

    def stack(self, _stack: str, _block: str) -> Moves:
        held = yield from self._taken_up()
        below = min((c for c in COLOURS if c != held), key=lambda c: float(self._block(c)[0][1] > 0.03))
        yield from self._let_go(held, self._block(below)[0] + np.array([0.0, 0.0, 0.045]), DOWN)

    def _taken_up(self) -> Generator[Vector, None, str]:
        """The colour of the block in the hand; one that has slipped out of it is taken up again."""
        if not self._colour:
            at = self._tool()
            self._colour = min(COLOURS, key=lambda c: float(np.linalg.norm(self._block(c)[0] - at)))
        position, _ = self._block(self._colour)
        if np.linalg.norm(position - self._tool()) > _IN_HAND:
            where = "slider" if position[1] > 0.03 else "table"
            yield from self.lift("lift", self._colour, "block", where)
        return self._colour

    def _free_on_shelf(self, held: str) -> Array:
        """A place (3) at the open end of the shelf: its middle, or as far from other blocks as door and wall allow."""
        end = "slider_right" if self._world.joint("base__slide") > 0.1 else "slider_left"
        (low, _, _), (high, _, _) = self._world.scene.surfaces[end]
        others = [self._block(c)[0] for c in COLOURS if c != held]
        on_shelf = [position[0] for position in others if position[1] > 0.03]
        places = np.linspace(low, high, 33)
        apart = np.min([[1.0] * len(places), *(abs(places - other) for other in on_shelf)], axis=0)
        from_sides = np.minimum(places - low, high - places) + _SIDES
        room = np.minimum(np.minimum(apart, _APART) / _APART, np.minimum(from_sides, _HAND) / _HAND)
        best = int(np.argmax(room - 0.1 * abs(places - (low + high) / 2)))
        return np.array([places[best], 0.09, 0.475 if apart[best] >= _APART else 0.51])

    def put_down(self) -> Moves:
        """Empty the hand that a task before this one has left around a block: on the spot, or on a free one below."""
        at = self._tool()
        colour = min(COLOURS, key=lambda c: float(np.linalg.norm(self._block(c)[0] - at)))
        block, _ = self._block(colour)
        if self._gripper == CLOSE and np.linalg.norm(block - at) < _IN_HAND and block[2] > _ABOVE_TABLE:
            yield from self._let_go(colour, self._free_on_table(colour), DOWN)
        elif np.linalg.norm(block - at) < _IN_HAND:
            yield from self._grip(OPEN)
            yield from self._to(np.array([at[0], min(at[1], 0.0), HIGH]), self._world.target_angles[2])

    def _free_on_table(self, held: str) -> Array:
        """The place (3) on the table, away from the other blocks, that is nearest to the block in the hand."""
        (x0, y0, z), (x1, y1, _) = self._world.scene.surfaces["table"]
        grid = np.stack(np.meshgrid(np.linspace(x0, x1, 12), np.linspace(y0, y1, 5)), axis=-1).reshape(-1, 2)
        others = [self._block(c)[0][:2] for c in COLOURS if c != held]
        crowded = np.array([min(np.linalg.norm(place - other) for other in others) < 0.12 for place in grid])
        far = np.linalg.norm(grid - self._block(held)[0][:2], axis=1)
        return np.array([*grid[int(np.argmin(far + 10.0 * crowded))], z + 0.005])

    def _cost_of_pushing(self, colour: str, x: float) -> float:
        """How far a block is from the drawer's middle; far more where it lies on the shelf or in the drawer already."""
        block, _ = self._block(colour)
        return float(abs(block[0] - x) + 10.0 * bool(block[1] > 0.03 or block[2] < 0.44))

    def _topmost(self) -> str:
        return max(COLOURS, key=lambda c: float(self._block(c)[0][2]))

    def rotate(self, _rotate: str, colour: str, _block: str, way: str) -> Moves:
        """Just above the table, and dropped: the rule holds while a hand still turns the block on the table, and the
        next task of a chain would begin with the block in the hand."""
        yield from self._grasp(colour)
        yaw = self._world.target_angles[2] + (1.4 if way == "left" else -1.4)
        at = self._world.target_position + np.array([0.0, 0.0, _CLEAR])
        yield from self._to(at, self._world.target_angles[2])
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
