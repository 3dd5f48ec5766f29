"""Where episodes begin: scene, robot and objects, as a function of the episode alone. numpy only.

Chains begin as the official evaluation does (calvin @fa03f01f, calvin_agent/evaluation/utils.py). Starts of single
tasks are this benchmark's own: the official one has none.
"""

from dataclasses import dataclass

import numpy as np

from vlm4vla.bench.calvin import sequences
from vlm4vla.bench.calvin.oracle import RULES
from vlm4vla.bench.calvin.scenes import BLOCKS, BY_NAME, Array, Scene
from vlm4vla.types import EpisodeSpec, Split, refuse

CHAIN, QUICK = "chain", "chain_quick"
CHAINS = (CHAIN, QUICK)
"""The published list, and the part of it that begins in the first ``protocol.QUICK_STATES`` initial states, whole."""
SINGLE = tuple(RULES)
"""Tasks that have starts of their own, and a script of the expert."""
HELD_FROM = {
    "place_in_slider": ("table", "drawer"),
    "place_in_drawer": ("table", "slider"),
    "stack_block": ("table", "slider", "drawer"),
}
"""Tasks that begin with a block in the hand -> where it may come from. Not from where it is to be placed: a hand that
opens would do that."""
SCENES_OF: dict[Split, tuple[str, ...]] = {"train": ("A", "B", "C"), "dev": ("D",), "eval": ("D",)}  # of single tasks

_TOOL = (0.02586889, -0.2313129, 0.5712808, 3.09045411, -0.02908596, 1.50013585)
_JOINTS = (-1.21779124, 1.03987629, 2.11978254, -2.34205014, -0.87015899, 1.64119093, 0.55344928)
ROBOT = (*_TOOL, 0.07999963, *_JOINTS, 1.0)
_SLIDER_LEFT, _DRAWER_OPEN, _SWITCH_ON = 0.28, 0.22, 0.088
_ON_SHELF = {
    "slider_left": (-2.40851662e-01, 9.24044687e-02, 4.60990009e-01),
    "slider_right": (7.03416330e-02, 9.24044687e-02, 4.60990009e-01),
}
_ON_TABLE = (
    (5.00000896e-02, -1.20000177e-01, 4.59990009e-01),
    (2.29995412e-01, -1.19995140e-01, 4.59990010e-01),
)
_YAW = (np.pi / 2 - np.pi / 8, np.pi / 2 + np.pi / 8)

_DOOR_END = {"A": 0.28, "B": 0.28, "C": 0.23, "D": 0.28}  # the door of scene C goes no further than 0.24
_APART = 0.13  # metres between blocks on the table
_AHEAD = 0.14  # metres of table that a block needs on the side to which it is pushed
_FROM_CABINET = 0.025  # metres less of the table, so that no block leans against the door
_SHELF_Y, _JITTER = 0.0924, 0.02
_DRAWER_X = {"A": 0.1, "B": 0.18, "C": 0.1, "D": 0.18}
_IN_DRAWER_Z, _BLOCK_HEIGHT = 0.341, 0.04


@dataclass(frozen=True)
class Start:
    """``robot_obs`` (15), ``scene_obs`` (24) in the scene's order of blocks; ``tasks`` are to be solved in order.

    ``prelude``: the task of lifting that is played from this state before the first of ``tasks`` begins, or null.
    """

    scene: str
    robot_obs: Array
    scene_obs: Array
    tasks: tuple[str, ...]
    prelude: str | None = None


def fnv1_32(text: str) -> int:
    """The hash behind the official seeds: 32-bit FNV-1 over UTF-16-LE that starts from zero (pyhash 0.9.3)."""
    value = 0
    for byte in text.encode("utf-16-le"):
        value = ((value * 0x01000193) & 0xFFFFFFFF) ^ byte
    return value


def of(episode: EpisodeSpec, attempt: int = 0) -> Start:
    """The start of an episode; refuses a sequence that does not exist.

    ``attempt`` counts the draws of a start with a prelude: the next one is taken where the prelude fails.
    """
    if episode.task in CHAINS:
        if not 0 <= episode.index < sequences.COUNT:
            raise refuse(
                f"There is no {episode.split} sequence {episode.index}",
                possible=f"0 to {sequences.COUNT - 1}",
                todo="Ask for one of these.",
            )
        state, tasks = sequences.sequence(episode.split, episode.index)
        # Other splits share the 192 descriptions of a beginning; their blocks lie elsewhere, as drawn with the seed.
        seed = fnv1_32(str(state.values())) if episode.split == "eval" else episode.seed % 2**32
        return Start("D", np.array(ROBOT), official_scene(state, seed), tasks)
    random = np.random.default_rng(episode.seed)
    scenes = SCENES_OF[episode.split]
    scene = BY_NAME[scenes[random.integers(len(scenes))]]
    drawn = [_draw(scene, episode.task, random) for _ in range(attempt + 1)]
    return drawn[attempt]


def official_scene(state: sequences.State, seed: int) -> Array:
    """``scene_obs`` (24) of scene D for a described beginning."""
    random = np.random.RandomState(seed)
    table = [np.array(place) for place in _ON_TABLE]
    random.shuffle(table)
    scene = np.zeros(24)
    scene[0] = _SLIDER_LEFT * (state["slider"] == "left")
    scene[1] = _DRAWER_OPEN * (state["drawer"] == "open")
    scene[3] = _SWITCH_ON * state["lightbulb"]
    scene[4], scene[5] = state["lightbulb"], state["led"]
    # The first of the blocks on the table takes the first place, but a pink one always the second.
    first_is_taken = False
    for block in BLOCKS:
        where = state[f"{block.removeprefix('block_')}_block"]
        if where in _ON_SHELF:
            position = np.array(_ON_SHELF[where])
        else:
            position = table[int(first_is_taken or block == "block_pink")]
            first_is_taken = True
        place = BY_NAME["D"].place(block)
        scene[place] = [*position, 0, 0, random.uniform(*_YAW)]
    return scene


def _draw(scene: Scene, task: str, random: np.random.Generator) -> Start:
    """A start of a single task; it begins with lifting a block where the task needs one in the hand."""
    if task not in HELD_FROM:
        return Start(scene.name, np.array(ROBOT), _random_scene(scene, task, task, random), (task,))
    colour = str(random.choice(BLOCKS)).removeprefix("block_")
    lift = f"lift_{colour}_block_{random.choice(HELD_FROM[task])}"
    return Start(scene.name, np.array(ROBOT), _random_scene(scene, lift, task, random), (task,), lift)


def _random_scene(scene: Scene, task: str, goal: str, random: np.random.Generator) -> Array:
    """``scene_obs`` (24) in which ``task`` can be done: its block on the table, the others there or on the shelf.

    ``goal``: the task that follows it, or itself.
    """
    state = {name: bool(random.integers(2)) for name in ("slider", "drawer", "lightbulb", "led")}
    state |= {
        "move_slider_left": {"slider": False},
        "move_slider_right": {"slider": True},
        "open_drawer": {"drawer": False},
        "close_drawer": {"drawer": True},
        "turn_on_lightbulb": {"lightbulb": False},
        "turn_off_lightbulb": {"lightbulb": True},
        "turn_on_led": {"led": False},
        "turn_off_led": {"led": True},
    }.get(task, {"drawer": True} if task.endswith("_drawer") or goal.endswith("_drawer") else {})
    out = np.zeros(24)
    out[0] = _DOOR_END[scene.name] * state["slider"]
    out[1] = _DRAWER_OPEN * state["drawer"]
    out[3] = _SWITCH_ON * state["lightbulb"]
    out[4:6] = state["lightbulb"], state["led"]
    open_end = "slider_right" if state["slider"] else "slider_left"
    for block, position in _places(scene, task, goal, open_end, random).items():
        out[scene.place(block)] = [*position, 0, 0, random.uniform(*_YAW)]
    return out


def _places(scene: Scene, task: str, goal: str, open_end: str, random: np.random.Generator) -> dict[str, Array]:
    """Position (3) of every block. ``open_end``: of the shelf, the one that the door does not hide."""
    kind, *words = task.split("_")
    order = [str(b) for b in random.permutation(BLOCKS)]
    if f"block_{words[0]}" in order:  # the block that the task is about comes first
        order.sort(key=lambda b: b != f"block_{words[0]}")
    ends = [str(end) for end in random.permutation(["slider_left", "slider_right"])]
    on_table = 1 + int(random.integers(2))
    low, high = _table(scene)
    out: dict[str, Array] = {}
    side = 0
    if kind == "push" and words[0] != "into":
        side = {"left": -1, "right": 1}[words[-1]]
        low[0] += _AHEAD * (side < 0)
        high[0] -= _AHEAD * (side > 0)
    elif task == "push_into_drawer":  # the official sequences ask for it with the others on the shelf
        on_table = 1
        low[0], high[0] = max(low[0], _DRAWER_X[scene.name] - 0.12), min(high[0], _DRAWER_X[scene.name] + 0.12)
    elif kind == "lift" and words[-1] == "drawer":
        x, y = random.uniform((_DRAWER_X[scene.name] - 0.1, -0.32), (_DRAWER_X[scene.name] + 0.1, -0.28))
        out[order.pop(0)] = np.array([x, y, _IN_DRAWER_Z])
        on_table += goal in HELD_FROM  # where one lies at least, besides that in the drawer
    elif kind == "lift" and words[-1] == "slider":
        ends.sort(key=lambda end: end == open_end)
        on_table = 0
    if goal == "place_in_slider":  # the open end stays free
        ends.sort(key=lambda end: end != open_end)
    for block in order:
        found = None
        if task == "unstack_block" and len(out) == 1:
            found = out[order[0]] + [0, 0, _BLOCK_HEIGHT]
        elif len(out) < on_table:
            found = _free_place(low, high, side, list(out.values()), random)
        if found is None:
            (x0, _, z), (x1, _, _) = scene.surfaces[ends.pop()]
            found = np.array([(x0 + x1) / 2 + random.uniform(-_JITTER, _JITTER), _SHELF_Y, z])
        out[block] = found
        low, high = _table(scene)
        on_table = max(on_table, 1 + (len(order) > 2))
    return out


def _table(scene: Scene) -> tuple[Array, Array]:
    low, high = (np.array(corner) for corner in scene.surfaces["table"])
    return low, high - [0, _FROM_CABINET, 0]


def _free_place(low: Array, high: Array, side: int, others: list[Array], random: np.random.Generator) -> Array | None:
    """A place in the box, away from the others and not where the first is to be pushed; null if none is found."""
    for _ in range(100):
        position = random.uniform(low, high)
        away = [position[:2] - other[:2] for other in others]
        if all(np.linalg.norm(d) > _APART and not (side * d[0] > 0 and abs(d[1]) < _APART) for d in away):
            return position
    return None
