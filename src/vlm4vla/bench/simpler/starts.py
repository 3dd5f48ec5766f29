"""Where episodes start: the 24 published layouts of each task, and random ones from a seed."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlm4vla.bench import common
from vlm4vla.bench.simpler import protocol
from vlm4vla.bench.simpler.tasks import SINK_CENTRE, TABLE_CENTRE, TASKS, Task
from vlm4vla.types import EpisodeSpec, Split

Array = npt.NDArray[np.float64]
_FLAT = np.array([1.0, 0.0, 0.0, 0.0])


@dataclass(frozen=True)
class Start:
    """Positions (3,) and quaternions (4,; w first) of source and target, before they settle."""

    source: Array
    source_turn: Array
    target: Array
    target_turn: Array


def start_seed(split: Split, task: str, index: int) -> int:
    """Seed of a start; the published ``eval`` starts have their index as seed.

    Others are those of :func:`vlm4vla.bench.common.start_seed` with their highest bit set: never below ``EVAL_STARTS``.
    """
    if split == "eval":
        return index
    return common.start_seed(protocol.SEED_ENTROPY, split, task, index) | 1 << 52


def of(episode: EpisodeSpec) -> Start:
    task = TASKS[episode.task]
    return published(task, episode.seed) if episode.split == "eval" else _random(task, episode.seed)


def published(task: Task, index: int) -> Start:
    """Layout ``index`` (0 to 23) of the published evaluation."""
    assert 0 <= index < protocol.EVAL_STARTS
    source, target = task.places[index // len(task.turns)]
    turn = task.turns[index % len(task.turns)]
    return Start(np.array(source), np.array(turn), np.array(target), _FLAT)


def _random(task: Task, seed: int) -> Start:
    """Both objects anywhere in the task's box, the source turned by any angle, and unlike all published layouts."""
    random = np.random.default_rng(np.random.SeedSequence(seed))
    centre, half = (SINK_CENTRE, protocol.SINK_HALF_M) if task.in_sink else (TABLE_CENTRE, protocol.TABLE_HALF_M)
    low, high = np.subtract(centre, half), np.add(centre, half)
    like = published(task, 0)
    known = [published(task, i) for i in range(protocol.EVAL_STARTS)]
    while True:
        source = np.append(random.uniform(low, high), like.source[2])
        target = like.target if task.in_sink else np.append(random.uniform(low, high), like.target[2])
        angle = random.uniform(-np.pi, np.pi)
        turn = _turned(angle, np.array(task.turns[0]))
        start = Start(source, turn, target, like.target_turn)
        apart = np.linalg.norm(source[:2] - target[:2]) >= task.apart
        if apart and not any(_alike(start, other) for other in known):
            return start


def _turned(angle: float, quaternion: Array) -> Array:
    """``quaternion`` turned by ``angle`` (rad) around the world's z axis."""
    c, s = np.cos(angle / 2), np.sin(angle / 2)
    w, x, y, z = quaternion
    return np.array([c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w])


def _alike(a: Start, b: Start) -> bool:
    near = max(np.abs(a.source - b.source).max(), np.abs(a.target - b.target).max()) < protocol.UNLIKE_M
    angle = 2 * np.arccos(min(1.0, abs(float(a.source_turn @ b.source_turn))))
    return bool(near and angle < protocol.UNLIKE_RAD)
