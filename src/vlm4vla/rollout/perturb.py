"""What the evaluation-only controls change, as functions of the episode's task and seed. Needs numpy only.

A draw is made by the task and seed of the start and the name of the camera, so rows do not depend on order or sharding.
The task counts because starts of several tasks may have one seed, and their rows would share one draw.
"""

import zlib
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from vlm4vla.rollout.names import CAMERA_MOVED, INSTRUCTION_PARAPHRASED
from vlm4vla.types import Benchmark, CameraMove, CameraShift, EpisodeSpec, Image, MovableEnv, refuse

GRID = 8
"""``image-shuffled`` cuts a picture into GRID x GRID patches."""
_SHUFFLE, _MOVE = 1, 2  # each control draws from a stream of its own


def must_offer(bench: Benchmark, controls: Iterable[str | None]) -> None:
    """Refuse a control for which the benchmark lacks what it needs."""
    needs = {CAMERA_MOVED: "camera_moves", INSTRUCTION_PARAPHRASED: "paraphrase"}
    for control in controls:
        if control in needs and not hasattr(bench, needs[control]):
            raise refuse(
                f"The control {control} was asked for, but {bench.id} has no {needs[control]}",
                possible="benchmarks that have it: see Benchmark and MovableEnv in vlm4vla/types.py",
                todo="Leave the control out, or give the benchmark what it lacks.",
            )


def shuffled(image: Image, episode: EpisodeSpec, camera: str) -> Image:
    """The picture's patches in another order, which is the same for all pictures of that camera in an episode.

    A grid of ``GRID`` x ``GRID`` equal patches in the middle; where it does not divide the sides, the pixels that are
    left over, less than a patch, stay where they are at the edges. So every pixel of the picture is still in it.
    """
    height, width = image.shape[:2]
    rows, columns = min(GRID, height), min(GRID, width)
    tall, wide = height // rows, width // columns
    top, left = (height - rows * tall) // 2, (width - columns * wide) // 2
    inside = (slice(top, top + rows * tall), slice(left, left + columns * wide))
    patches = image[inside].reshape(rows, tall, columns, wide, 3).swapaxes(1, 2).reshape(-1, tall, wide, 3)
    mixed = patches[_random(episode, _SHUFFLE, camera).permutation(rows * columns)]
    out = image.copy()
    out[inside] = mixed.reshape(rows, columns, tall, wide, 3).swapaxes(1, 2).reshape(rows * tall, columns * wide, 3)
    return out


def camera_shifts(bench: Benchmark, episode: EpisodeSpec) -> dict[str, CameraShift]:
    """Every camera of the benchmark moved as far as it declares, in a random direction and about a random axis."""
    moves = camera_moves(bench)
    out: dict[str, CameraShift] = {}
    for camera in bench.cameras:
        random = _random(episode, _MOVE, camera.name)
        metres, degrees = moves[camera.name].metres, moves[camera.name].degrees
        way, axis = metres * _direction(random), np.radians(degrees) * _direction(random)
        out[camera.name] = CameraShift((way[0], way[1], way[2]), (axis[0], axis[1], axis[2]))
    return out


def move_cameras(env: object, shifts: Mapping[str, CameraShift]) -> None:
    """Move the cameras of an environment whose benchmark declares ``camera_moves``."""
    cast(MovableEnv, env).move_cameras(shifts)


def camera_moves(bench: Benchmark) -> Mapping[str, CameraMove]:
    """Camera -> how far it is moved; of a benchmark that :func:`must_offer` lets pass."""
    moves: Mapping[str, CameraMove] = cast(Any, bench).camera_moves
    return moves


def paraphrases(bench: Benchmark, episode: EpisodeSpec) -> dict[str, str]:
    """What the policy is told in place of each sentence of this episode; in a chain every task has its own.

    Where a start is told the paraphrase by itself (as training starts may be), the other words are the instruction.
    """
    paraphrase = cast(Any, bench).paraphrase
    if episode.task not in chains(bench):
        other: str = paraphrase(episode.task)
        return {episode.instruction: bench.instruction(episode.task) if other == episode.instruction else other}
    return {bench.instruction(task): paraphrase(task) for task in bench.tasks() if task not in chains(bench)}


def chains(bench: Benchmark) -> tuple[str, ...]:
    """The tasks of a benchmark that are several in a row."""
    found: tuple[str, ...] = getattr(bench, "chains", ())
    return found


def _direction(random: np.random.Generator) -> npt.NDArray[np.float64]:
    """(3,) of length 1, all directions alike."""
    drawn = random.normal(size=3)
    return np.asarray(drawn / np.linalg.norm(drawn))


def _random(episode: EpisodeSpec, stream: int, camera: str) -> np.random.Generator:
    key = (stream, zlib.crc32(episode.task.encode()), zlib.crc32(camera.encode()))
    return np.random.default_rng(np.random.SeedSequence(episode.seed, spawn_key=key))
