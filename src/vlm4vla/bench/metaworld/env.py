"""The MetaWorld v3 benchmark: protocol constants and start lists. Needs numpy only; the simulator loads in ``make``.

Whatever a score depends on (camera, picture size, render flags, step limit, success and gripper rule, markers, starts)
is fixed by ``id``: change any of it and the id changes. README.md gives the reasons and the measurements.
"""

import platform
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import numpy as np

from vlm4vla.bench.metaworld.tasks import INSTRUCTIONS
from vlm4vla.types import (
    SPLITS,
    ActionSpec,
    CameraSpec,
    Dimension,
    Env,
    EpisodeSpec,
    Expert,
    Split,
    Vector,
    refuse,
)

ID = "metaworld-v1"
PICTURE = 96
CONTROL_HZ = 80.0  # 5 physics steps of 2.5 ms
_SEED_ENTROPY = 0x6D657461  # any constant; part of the version

_UNIT = "MetaWorld unit (1 = 0.01 m of the hand's target)"


class Benchmark:
    """All 50 tasks on a simulated Sawyer arm, seen by one camera; see :class:`vlm4vla.types.Benchmark`."""

    id = ID
    action_spec = ActionSpec(
        dimensions=(
            *(Dimension(name, _UNIT, "delta", "world", -1.0, 1.0) for name in ("dx", "dy", "dz")),
            Dimension("gripper", "+1 open, -1 close", "gripper", "gripper", -1.0, 1.0),
        ),
        rotation="none",
        control_hz=CONTROL_HZ,
    )
    cameras = (CameraSpec("corner2", PICTURE, PICTURE),)
    state_names = ("hand_x_m", "hand_y_m", "hand_z_m", "gripper_opening")
    step_limit = 250
    success_rule = 'MetaWorld\'s own info["success"] is true after any step up to the step limit'

    def tasks(self) -> tuple[str, ...]:
        return tuple(sorted(INSTRUCTIONS))

    def instruction(self, task: str) -> str:
        return INSTRUCTIONS[_known(task)]

    def episodes(self, split: Split, task: str, count: int) -> tuple[EpisodeSpec, ...]:
        """The first ``count`` starts of a split; a longer list begins with the shorter one."""
        if split not in SPLITS:
            raise refuse(f"Unknown split {split!r}", given=split, possible=SPLITS, todo="Use one of these.")
        instruction = self.instruction(task)
        return tuple(EpisodeSpec(ID, split, task, i, start_seed(split, task, i), instruction) for i in range(count))

    def make(self, task: str) -> Env:
        """A live environment. Close it before the next one is made in this process.

        Raises UserError where the simulator or the OpenGL library it draws with is missing.
        """
        _known(task)
        with _simulator():
            from vlm4vla.bench.metaworld.sim import SawyerEnv
        return SawyerEnv(task, self.action_spec, self.cameras[0])

    def expert(self, env: Env) -> Expert:
        """MetaWorld's scripted policy of the task that ``env`` (made by ``make``) runs."""
        with _simulator():
            from vlm4vla.bench.metaworld.expert import ScriptedExpert
            from vlm4vla.bench.metaworld.sim import SawyerEnv
        assert isinstance(env, SawyerEnv)
        return ScriptedExpert(env)

    def do_nothing(self) -> Vector:
        """No motion, gripper open (as it is at every start)."""
        return np.array([0, 0, 0, 1], np.float32)

    def versions(self) -> dict[str, str]:
        """Versions of simulator and renderer. Raises UserError where they are not installed."""
        with _simulator():
            from vlm4vla.bench.metaworld import render
            from vlm4vla.bench.metaworld.sim import is_live
        found = {name: version(name) for name in ("metaworld", "mujoco", "gymnasium", "numpy")}
        found["python"] = platform.python_version()
        found["gl_backend"] = render.BACKEND
        if not is_live():  # a second OpenGL context would spoil the pictures of the first
            found["gl_renderer"] = render.describe()
        return found


def start_seed(split: Split, task: str, index: int) -> int:
    """Seed of a start: 53 bits (exact in every JSON reader) from numpy's SeedSequence.

    The spawn keys of the splits are disjoint; the task enters by the CRC of its name, so a list does not move when
    tasks are added.
    """
    key = (SPLITS.index(split), zlib.crc32(task.encode()), index)
    words = np.random.SeedSequence(_SEED_ENTROPY, spawn_key=key).generate_state(1, np.uint64)
    return int(words[0]) >> 11


def _known(task: str) -> str:
    if task not in INSTRUCTIONS:
        raise refuse(
            f"Unknown task {task!r} of {ID}",
            given=task,
            possible=sorted(INSTRUCTIONS),
            todo="Use one of these (MetaWorld's names without -v3).",
        )
    return task


@contextmanager
def _simulator() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise refuse(
            f"The simulator of {ID} is not installed in this Python environment: {error}",
            possible="the environment that `vlm4vla bench install metaworld` makes",
            todo="Run that command; simulator workers then start in that environment by themselves.",
        ) from error
