"""What the benchmarks' ``env.py`` files share. Needs numpy only."""

import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm4vla.types import SPLITS, CameraShift, CameraSpec, EpisodeSpec, Split, refuse

Array = npt.NDArray[np.float64]


def start_seed(entropy: int, split: Split, task: str, index: int) -> int:
    """Seed of a start: 53 bits (exact in every JSON reader) from numpy's SeedSequence.

    The spawn keys of the splits are disjoint; the task enters by the CRC of its name, so a list does not move when
    tasks are added.
    """
    key = (SPLITS.index(split), zlib.crc32(task.encode()), index)
    words = np.random.SeedSequence(entropy, spawn_key=key).generate_state(1, np.uint64)
    return int(words[0]) >> 11


def constants(protocol: ModuleType) -> dict[str, Any]:
    """The constants of a ``protocol.py`` that decide scores: all but its own id and digest."""
    return {name: value for name, value in vars(protocol).items() if name.isupper() and name not in ("ID", "DIGEST")}


@contextmanager
def needs_simulator(name: str, benchmark_id: str) -> Iterator[None]:
    """Around imports of the simulator: where it is absent, the house's sentence instead of ModuleNotFoundError."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise refuse(
            f"The simulator of {benchmark_id} is not installed in this Python environment: {error}",
            possible=f"the environment that `vlm4vla bench install {name}` makes",
            todo="Run that command; simulator workers then start in that environment by themselves.",
        ) from error


def chosen_cameras(names: Collection[str], all_cameras: Sequence[CameraSpec]) -> tuple[CameraSpec, ...]:
    """The named cameras in the benchmark's order; refuses a name that it does not have."""
    known = [camera.name for camera in all_cameras]
    for name in names:
        if name not in known:
            raise refuse(f"There is no camera {name!r}", given=name, possible=known, todo="Use one of these.")
    return tuple(camera for camera in all_cameras if camera.name in names)


def moved(position: Array, axes: Array, shift: CameraShift) -> tuple[Array, Array]:
    """A camera's place (3,) and axes (3, 3) after ``shift``: columns to the right, up and towards the viewer."""
    return position + axes @ np.array(shift.translation), axes @ rotation(shift)


def rotation(shift: CameraShift) -> Array:
    """(3, 3) of the shift's rotation vector, by Rodrigues' formula."""
    vector = np.array(shift.rotation)
    angle = float(np.linalg.norm(vector))
    if angle == 0.0:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross)


def must_be_of(task: str, episode: EpisodeSpec) -> None:
    """Refuse a start of another task than the live environment's."""
    if episode.task != task:
        raise refuse(
            f"A start of task {episode.task!r} was given to an environment of {task!r}",
            possible=[task],
            todo="Make an environment of that task (one at a time in a process).",
        )
