"""The evaluation's sequences of five tasks: the generator, and the lists it made. numpy only.

Source of the rules: calvin @fa03f01f, calvin_models/calvin_agent/evaluation/multistep_sequences.py. The lists lie in
``sequences.txt`` (one line each: number of the initial state, five numbers of tasks), because drawing them takes
minutes; the eval list is the published one, in its order.
"""

import re
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from vlm4vla.bench.calvin.oracle import RULES
from vlm4vla.types import SPLITS, Split

State = dict[str, Any]
Sequence = tuple[State, tuple[str, ...]]

COUNT = 1000  # of each split
TASKS = tuple(RULES)
_LENGTH = 5
_SHELF = ("slider_left", "slider_right")
_COLOURS = ("red", "blue", "pink")
_KEYS = ("led", "lightbulb", "slider", "drawer", "red_block", "blue_block", "pink_block", "grasped")
_PLACES = ("table", "slider_right", "slider_left")
_FILE = Path(__file__).parent / "sequences.txt"
FIRST_SEED: dict[Split, int] = {"eval": 0, "dev": 1000, "train": 2000}  # of the generator, one seed an initial state

_Change = tuple[State, State]  # what must hold (a value, or one of several), what becomes so


def initial_states() -> tuple[State, ...]:
    """The 192: one or two blocks on the table, at most one at each end of the shelf, nothing in the drawer or hand."""
    places = [c for c in product(_PLACES, repeat=3) if c.count("table") in (1, 2) and max(map(c.count, _SHELF)) < 2]
    rest = product((0, 1), (0, 1), ("right", "left"), ("closed", "open"), places)
    return tuple(dict(zip(_KEYS, (*four, *three, 0), strict=True)) for *four, three in rest)


_KINDS = (
    "rotate_.*|push_.*_block_.*",
    "move_slider_.*",
    "open_drawer|close_drawer",
    "lift_.*_table",
    "lift_.*_slider",
    "lift_.*_drawer",
    "place_.*",
    "turn_.*",
    "push_into_drawer",
    "stack_block",
    "unstack_block",
)


def _category(task: str) -> int:
    """Tasks of one category stand at most once in a sequence."""
    return next(i for i, kind in enumerate(_KINDS) if re.fullmatch(kind, task))


def _changes(task: str) -> list[_Change]:
    """Ways in which a task can change a state. Only states in which exactly one way is open allow the task."""
    free: State = {"grasped": 0}
    blocks = [f"{c}_block" for c in _COLOURS]
    match task.split("_"):
        case ["rotate" | "push", colour, "block", _]:
            return [({f"{colour}_block": "table"} | free, {})]
        case ["move", "slider", side]:
            return [({"slider": "left" if side == "right" else "right"} | free, {"slider": side})]
        case ["open", "drawer"]:
            return [({"drawer": "closed"} | free, {"drawer": "open"})]
        case ["close", "drawer"]:
            return [({"drawer": "open"} | free, {"drawer": "closed"})]
        case ["lift", colour, "block", where]:
            block, held = f"{colour}_block", {f"{colour}_block": "grasped", "grasped": 1}
            if where == "slider":  # the door hides the other end of the shelf
                open_ends = (("slider_left", "right"), ("slider_right", "left"))
                return [({block: end, "slider": door} | free, held) for end, door in open_ends]
            return [({block: where} | ({"drawer": "open"} if where == "drawer" else {}) | free, held)]
        case ["place", "in", "slider"]:
            ends = [(b, side) for b in blocks for side in ("right", "left")]
            return [
                ({b: "grasped", "slider": side, "grasped": 1}, {b: f"slider_{side}", "grasped": 0}) for b, side in ends
            ]
        case ["place", "in", "drawer"]:
            return [({b: "grasped", "drawer": "open", "grasped": 1}, {b: "drawer", "grasped": 0}) for b in blocks]
        case ["stack", "block"]:
            return [
                (
                    {top: "grasped", bottom: "table", "grasped": 1},
                    {top: "stacked_top", bottom: "stacked_bottom", "grasped": 0},
                )
                for top, bottom in _pairs(blocks)
            ]
        case ["unstack", "block"]:
            return [
                ({top: "stacked_top", bottom: "stacked_bottom"} | free, {top: "table", bottom: "table"})
                for top, bottom in _pairs(blocks)
            ]
        case ["turn", way, light]:
            return [({light: int(way == "off")} | free, {light: int(way == "on")})]
    assert task == "push_into_drawer"
    return [
        ({b: "table", "drawer": "open"} | {o: _SHELF for o in blocks if o != b} | free, {b: "drawer"}) for b in blocks
    ]


def _pairs(blocks: list[str]) -> Iterator[tuple[str, str]]:
    return ((a, b) for a in blocks for b in blocks if a != b)


_CHANGES = {task: _changes(task) for task in TASKS}
_CATEGORIES = {task: _category(task) for task in TASKS}


def _after(state: State, task: str) -> State | None:
    """The state after a task, or null where it is not allowed."""
    ways = [effect for needed, effect in _CHANGES[task] if all(_holds(state[k], v) for k, v in needed.items())]
    return state | ways[0] if len(ways) == 1 else None


def _holds(value: Any, needed: Any) -> bool:
    return value in needed if isinstance(needed, tuple) else bool(value == needed)


def _possible(state: State, tasks: list[str]) -> bool:
    for task in tasks:
        after = _after(state, task)
        if after is None:
            return False
        state = after
    return len({_CATEGORIES[task] for task in tasks}) == len(tasks)


def draw(state: State, count: int, seed: int) -> list[tuple[str, ...]]:
    """``count`` sequences from one initial state: five tasks at a time are drawn until they can follow one another."""
    random = np.random.RandomState(seed)
    found: list[tuple[str, ...]] = []
    while len(found) < count:
        tasks = [TASKS[i] for i in random.permutation(len(TASKS))[:_LENGTH]]
        if _possible(state, tasks):
            found.append(tuple(tasks))
    return found


def counts() -> list[int]:
    """How many sequences begin in each initial state: six in the first ones, five in the others."""
    return [len(part) for part in np.array_split(np.arange(COUNT), len(initial_states()))]


def generate(split: Split) -> list[tuple[int, tuple[str, ...]]]:
    """The list of a split: (number of the initial state, tasks). Takes a minute or two."""
    numbered = enumerate(zip(initial_states(), counts(), strict=True))
    out = [(i, tasks) for i, (state, n) in numbered for tasks in draw(state, n, FIRST_SEED[split] + i)]
    np.random.RandomState(FIRST_SEED[split]).shuffle(out)
    return out


@cache
def _listed() -> dict[Split, tuple[tuple[int, tuple[str, ...]], ...]]:
    lines = [[int(word) for word in line.split()] for line in _FILE.read_text().splitlines()]
    rows = tuple((state, tuple(TASKS[i] for i in tasks)) for state, *tasks in lines)
    assert len(rows) == COUNT * len(SPLITS)
    return {split: rows[i * COUNT : (i + 1) * COUNT] for i, split in enumerate(FIRST_SEED)}


def state_number(split: Split, index: int) -> int:
    """Which of the 192 initial states a sequence begins in: sequences of one state are not independent."""
    return _listed()[split][index][0]


def sequence(split: Split, index: int) -> Sequence:
    """The initial state (keys in the official order) and the five tasks; IndexError beyond the list."""
    state, tasks = _listed()[split][index]
    return initial_states()[state], tasks
