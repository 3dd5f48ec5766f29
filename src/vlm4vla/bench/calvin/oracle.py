"""When a task is solved: 34 rules that compare the moment a task began with now. numpy only.

Source of the rules and thresholds: calvin_env @797142c, conf/tasks/new_playtable_tasks.yaml and envs/tasks.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from vlm4vla.bench.calvin.scenes import BLOCKS, Array


@dataclass(frozen=True)
class BlockFacts:
    """A block: body id, position (3) in metres, quaternion (4, xyzw), largest component of its velocity, and the
    (body, link) pairs that it touches."""

    body: int
    position: Array
    quaternion: Array
    speed: float
    contacts: frozenset[tuple[int, int]]

    @property
    def touches(self) -> frozenset[int]:
        return frozenset(body for body, _ in self.contacts)


@dataclass(frozen=True)
class Facts:
    """One moment of a world. ``links``: link name of the table -> index."""

    robot: int
    table: int
    links: Mapping[str, int]
    blocks: Mapping[str, BlockFacts]
    doors: Mapping[str, float]
    lights: Mapping[str, int]
    touched_by_robot: frozenset[int]

    def on(self, link: str) -> tuple[int, int]:
        return self.table, self.links[link]


Rule = Callable[[Facts, Facts], bool]

ROTATION = 60.0  # degrees about the vertical
TILT = 30.0  # degrees about the other axes that a rotation may bring with it
DRIFT = 0.1  # metres that a rotated block may wander
PUSH = 0.1  # metres
SLIDE, DRAW = 0.15, 0.12  # metres of door and drawer
LIFT = {"table": 0.05, "slider": 0.03, "drawer": 0.05}  # metres
SURFACES = {"table": "base_link", "slider": "plank_link", "drawer": "drawer_link"}
STILL = 1.0  # largest component of a velocity of a stacked block


def _angles(quaternion: Array, before: Array) -> Array:
    """Degrees about the fixed axes x, y, z of the turn from ``before`` to ``quaternion`` (both xyzw)."""
    x, y, z, w = _times(quaternion, before * np.array([-1, -1, -1, 1]))
    about_x = np.arctan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    about_y = np.arcsin(np.clip(2 * (w * y - z * x), -1, 1))
    about_z = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    degrees: Array = np.degrees(np.array([about_x, about_y, about_z]))
    return degrees


def _times(a: Array, b: Array) -> Array:
    vector = a[3] * b[:3] + b[3] * a[:3] + np.cross(a[:3], b[:3])
    product: Array = np.array([*vector, a[3] * b[3] - a[:3] @ b[:3]])
    product /= np.linalg.norm(product)
    return product


def _rotated(block: str, sign: int) -> Rule:
    def rule(start: Facts, now: Facts) -> bool:
        before, after = start.blocks[block], now.blocks[block]
        if np.linalg.norm(after.position - before.position) > DRIFT or not after.touches - {now.robot}:
            return False
        x, y, z = _angles(after.quaternion, before.quaternion)
        return bool(ROTATION < sign * z < 180 and abs(x) < TILT and abs(y) < TILT)

    return rule


def _pushed(block: str, sign: int) -> Rule:
    def rule(start: Facts, now: Facts) -> bool:
        before, after = start.blocks[block], now.blocks[block]
        held_up = {c for c in before.contacts if c[0] != start.robot}
        still = {c for c in after.contacts if c[0] != start.robot}
        far = sign * (after.position[0] - before.position[0]) > PUSH
        return bool(far and held_up and held_up <= still)

    return rule


def _lifted(block: str, surface: str) -> Rule:
    def rule(start: Facts, now: Facts) -> bool:
        before, after = start.blocks[block], now.blocks[block]
        high = after.position[2] - before.position[2] > LIFT[surface]
        return bool(high and after.touches == {start.robot} and start.on(SURFACES[surface]) in before.contacts)

    return rule


def _placed(link: str) -> Rule:
    def rule(start: Facts, now: Facts) -> bool:
        held = [b for b, f in start.blocks.items() if start.touched_by_robot == {f.body}]
        if not held or start.blocks[held[0]].body in now.touched_by_robot:
            return False
        return start.blocks[held[0]].touches == {start.robot} and now.on(link) in now.blocks[held[0]].contacts

    return rule


def _moved(door: str, threshold: float) -> Rule:
    def rule(start: Facts, now: Facts) -> bool:
        way = now.doors[door] - start.doors[door]
        return way > threshold if threshold > 0 else way < threshold

    return rule


def _toggled(light: str, before: int, after: int) -> Rule:
    return lambda start, now: start.lights[light] == before and now.lights[light] == after


def _stacked(start: Facts, now: Facts) -> bool:
    """A block that touched no other now rests on blocks alone."""
    bodies = {f.body for f in start.blocks.values()}
    return any(
        not bodies & start.blocks[b].touches
        and bool(now.blocks[b].touches)
        and now.blocks[b].touches <= bodies
        and now.blocks[b].speed < STILL
        for b in BLOCKS
    )


def _unstacked(start: Facts, now: Facts) -> bool:
    """A block that rested on blocks alone now touches none."""
    bodies = {f.body for f in start.blocks.values()}
    return any(
        bool(start.blocks[b].touches)
        and start.blocks[b].touches <= bodies
        and not bodies & now.blocks[b].touches
        and start.blocks[b].speed < STILL
        for b in BLOCKS
    )


def _pushed_into_drawer(start: Facts, now: Facts) -> bool:
    """A block that lay on the table and nowhere else now lies in the drawer; the robot touches it neither time."""
    return any(
        start.blocks[b].contacts == {start.on("base_link")}
        and now.on("drawer_link") in now.blocks[b].contacts
        and now.robot not in now.blocks[b].touches
        for b in BLOCKS
    )


def _colour(block: str) -> str:
    return block.removeprefix("block_")


_SIDES = {"right": 1, "left": -1}  # of the x axis

RULES: dict[str, Rule] = {
    **{f"rotate_{_colour(b)}_block_{side}": _rotated(b, -x) for b in BLOCKS for side, x in _SIDES.items()},
    **{f"push_{_colour(b)}_block_{side}": _pushed(b, x) for b in BLOCKS for side, x in _SIDES.items()},
    "move_slider_left": _moved("base__slide", SLIDE),
    "move_slider_right": _moved("base__slide", -SLIDE),
    "open_drawer": _moved("base__drawer", DRAW),
    "close_drawer": _moved("base__drawer", -DRAW),
    **{f"lift_{_colour(b)}_block_{surface}": _lifted(b, surface) for b in BLOCKS for surface in SURFACES},
    "place_in_slider": _placed("plank_link"),
    "place_in_drawer": _placed("drawer_link"),
    "stack_block": _stacked,
    "unstack_block": _unstacked,
    "turn_on_lightbulb": _toggled("lightbulb", 0, 1),
    "turn_off_lightbulb": _toggled("lightbulb", 1, 0),
    "turn_on_led": _toggled("led", 0, 1),
    "turn_off_led": _toggled("led", 1, 0),
    "push_into_drawer": _pushed_into_drawer,
}
"""All 34 tasks, in the order of the official settings."""


def solved(start: Facts, now: Facts) -> tuple[str, ...]:
    """Every task that the change from ``start`` to ``now`` solves, in the order of ``RULES``."""
    return tuple(task for task, rule in RULES.items() if rule(start, now))
