"""The MetaWorld v3 benchmark and its start lists. Needs numpy only; the simulator loads in ``make``.

Whatever a score depends on (camera, picture size, render flags, step limit, success and gripper rule, markers, starts)
is fixed by ``id``: change any of it and the id changes (protocol.py). README.md gives the reasons and the measurements.
"""

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vlm4vla.bench import common
from vlm4vla.bench.common import constants, needs_simulator
from vlm4vla.bench.metaworld import protocol
from vlm4vla.bench.metaworld.paraphrases import PARAPHRASES
from vlm4vla.bench.metaworld.protocol import ID
from vlm4vla.bench.metaworld.tasks import INSTRUCTIONS, MARKERS
from vlm4vla.types import (
    SPLITS,
    ActionSpec,
    CameraMove,
    CameraSpec,
    Dimension,
    Env,
    EpisodeSpec,
    Expert,
    Split,
    Vector,
    refuse,
)

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
        control_hz=protocol.CONTROL_HZ,
    )
    cameras = (CameraSpec(protocol.CAMERA, protocol.PICTURE, protocol.PICTURE),)
    camera_moves: ClassVar[dict[str, CameraMove]] = {protocol.CAMERA: CameraMove(metres=0.03, degrees=2.0)}
    state_names = ("hand_x_m", "hand_y_m", "hand_z_m", "gripper_opening")
    step_limit = protocol.STEP_LIMIT
    success_rule = protocol.SUCCESS_RULE

    def tasks(self) -> tuple[str, ...]:
        return tuple(sorted(INSTRUCTIONS))

    def instruction(self, task: str) -> str:
        return INSTRUCTIONS[_known(task)]

    def paraphrase(self, task: str) -> str:
        """The instruction in other words, for the control of that name."""
        return PARAPHRASES[_known(task)]

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
        with needs_simulator("metaworld", ID):
            from vlm4vla.bench.metaworld.sim import SawyerEnv
        return SawyerEnv(task, self.action_spec, self.cameras[0])

    def expert(self, env: Env) -> Expert:
        """MetaWorld's scripted policy of the task that ``env`` (made by ``make``) runs."""
        with needs_simulator("metaworld", ID):
            from vlm4vla.bench.metaworld.expert import ScriptedExpert
            from vlm4vla.bench.metaworld.sim import SawyerEnv
        assert isinstance(env, SawyerEnv)
        return ScriptedExpert(env)

    def do_nothing(self) -> Vector:
        """No motion, gripper open (as it is at every start)."""
        return np.array([0, 0, 0, 1], np.float32)

    def versions(self) -> dict[str, str]:
        """Versions of simulator and renderer. Raises UserError where they are not installed."""
        with needs_simulator("metaworld", ID):
            from vlm4vla.bench.metaworld import render
            from vlm4vla.bench.metaworld.sim import is_live
        found = {name: version(name) for name in ("metaworld", "mujoco", "gymnasium", "numpy")}
        found["python"] = platform.python_version()
        found["gl_backend"] = render.BACKEND
        if not is_live():  # a second OpenGL context would spoil the pictures of the first
            found["gl_renderer"] = render.describe()
        return found


def start_seed(split: Split, task: str, index: int) -> int:
    """Seed of a start, see :func:`vlm4vla.bench.common.start_seed`."""
    return common.start_seed(protocol.SEED_ENTROPY, split, task, index)


def decides_scores() -> dict[str, Any]:
    """Everything that a score depends on, as plain data; ``protocol.DIGEST`` is the digest of it."""
    pins = (Path(__file__).parent / "requirements.txt").read_text().split()
    return {
        "id": ID,
        "constants": constants(protocol),
        "action_spec": Benchmark.action_spec.to_dict(),
        "cameras": [asdict(camera) for camera in Benchmark.cameras],
        "step_limit": Benchmark.step_limit,
        "success_rule": Benchmark.success_rule,
        "state_names": Benchmark.state_names,
        "do_nothing": Benchmark().do_nothing().tolist(),
        "instructions": INSTRUCTIONS,
        "markers": MARKERS,
        "first_seeds": [
            start_seed(split, task, i) for split in SPLITS for task in sorted(INSTRUCTIONS) for i in (0, 1)
        ],
        "simulator": [pin for pin in pins if pin.startswith(("metaworld==", "mujoco=="))],
    }


def _known(task: str) -> str:
    if task not in INSTRUCTIONS:
        raise refuse(
            f"Unknown task {task!r} of {ID}",
            given=task,
            possible=sorted(INSTRUCTIONS),
            todo="Use one of these (MetaWorld's names without -v3).",
        )
    return task
