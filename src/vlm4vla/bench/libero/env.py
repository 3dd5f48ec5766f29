"""The LIBERO benchmark, four of its suites, and their start lists. Needs numpy only; the simulator loads in ``make``.

Whatever a score depends on (cameras, picture size, turn, settling, step limits, success and gripper rule, starts) is
fixed by ``id``: change any of it and the id changes (protocol.py). README.md gives the reasons and the measurements.
"""

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from vlm4vla.bench.common import constants, needs_simulator
from vlm4vla.bench.libero import protocol
from vlm4vla.bench.libero.protocol import ID
from vlm4vla.bench.libero.starts import start_seed
from vlm4vla.bench.libero.tasks import SUITE_OF, SUITES, instruction
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

_TASKS = tuple(SUITE_OF)
_POSE = ("x", "y", "z", "rx", "ry", "rz")


class Benchmark:
    """40 tasks on a simulated Panda arm, seen by a fixed and a wrist camera; see :class:`vlm4vla.types.Benchmark`.

    Tasks have the benchmark's own names. ``step_limit`` is the largest; each suite has its own, see ``step_limits``.
    """

    id = ID
    # Deltas of the goal pose of robosuite's OSC_POSE controller, both parts in the world's axes.
    action_spec = ActionSpec(
        dimensions=(
            *(Dimension(name, "0.05 m", "delta", "world", -1.0, 1.0) for name in ("dx", "dy", "dz")),
            *(Dimension(name, "0.5 rad", "delta", "world", -1.0, 1.0) for name in ("drx", "dry", "drz")),
            Dimension("gripper", "+1 open, -1 close", "gripper", "gripper", -1.0, 1.0),
        ),
        rotation="axis_angle",
        control_hz=protocol.CONTROL_HZ,
    )
    cameras = tuple(CameraSpec(name, protocol.PICTURE, protocol.PICTURE) for name in protocol.CAMERAS)
    # End effector in the world (m; axis-angle, rad) and both fingers (m), as in the data sets.
    state_names = (*(f"ee_states.{n}" for n in _POSE), "gripper_states.left", "gripper_states.right")
    step_limit = max(protocol.STEP_LIMITS.values())
    success_rule = protocol.SUCCESS_RULE

    data_format = "libero_hdf5"

    @property
    def step_limits(self) -> dict[str, int]:
        return {task: protocol.STEP_LIMITS[suite] for task, suite in SUITE_OF.items()}

    def tasks(self) -> tuple[str, ...]:
        return _TASKS

    def instruction(self, task: str) -> str:
        return instruction(_known(task))

    def episodes(self, split: Split, task: str, count: int) -> tuple[EpisodeSpec, ...]:
        """The first ``count`` starts of a split; ``eval`` has 50, the others never end."""
        if split not in SPLITS:
            raise refuse(f"Unknown split {split!r}", given=split, possible=SPLITS, todo="Use one of these.")
        told = self.instruction(task)
        there = min(count, protocol.EVAL_STARTS) if split == "eval" else count
        return tuple(EpisodeSpec(ID, split, task, i, start_seed(split, task, i), told) for i in range(there))

    def describe(self, episode: EpisodeSpec) -> dict[str, Any]:
        """The suite of a start, and what LIBERO's own files say about its task."""
        suite = SUITE_OF[_known(episode.task)]
        return {"suite": suite, "attributes": {"bddl_file_name": f"{suite}/{episode.task}.bddl"}}

    def make(self, task: str) -> Env:
        """A live environment. Close it before the next one is made in this process.

        Raises UserError where the simulator, its assets or the OpenGL library it draws with are missing.
        """
        _known(task)
        with needs_simulator("libero", ID):
            from vlm4vla.bench.libero.sim import PandaEnv
        return PandaEnv(task, self.action_spec, self.cameras)

    def expert(self, env: Env) -> Expert:
        """The scripted policy of the task that ``env`` (made by ``make``) runs; refused where there is none."""
        with needs_simulator("libero", ID):
            from vlm4vla.bench.libero.expert import ScriptedExpert
            from vlm4vla.bench.libero.sim import PandaEnv
        assert isinstance(env, PandaEnv)
        return ScriptedExpert(env)

    def do_nothing(self) -> Vector:
        """No motion, gripper open (as it is at every start)."""
        return np.array([0, 0, 0, 0, 0, 0, 1], np.float32)

    def versions(self) -> dict[str, str]:
        """Versions of simulator, renderer and assets. Raises UserError where they are missing."""
        with needs_simulator("libero", ID):
            from vlm4vla.bench.libero import render, simulator
            from vlm4vla.bench.libero.sim import is_live
        found = {name: version(name) for name in ("hf-libero", "robosuite", "mujoco", "numpy")}
        found["python"] = platform.python_version()
        found["assets"] = simulator.describe_assets()
        found["gl_backend"] = render.BACKEND
        if not is_live():  # a second OpenGL context would spoil the pictures of the first
            found["gl_renderer"] = render.describe()
        return found


def decides_scores() -> dict[str, Any]:
    """Everything that a score depends on, as plain data; ``protocol.DIGEST`` is the digest of it."""
    pins = (Path(__file__).parent / "requirements-no-deps.txt").read_text().split()
    pins += (Path(__file__).parent / "requirements.txt").read_text().split()
    return {
        "id": ID,
        "constants": constants(protocol),
        "action_spec": Benchmark.action_spec.to_dict(),
        "cameras": [asdict(camera) for camera in Benchmark.cameras],
        "step_limits": Benchmark().step_limits,
        "success_rule": Benchmark.success_rule,
        "state_names": Benchmark.state_names,
        "do_nothing": Benchmark().do_nothing().tolist(),
        "instructions": {task: instruction(task) for task in _TASKS},
        "first_seeds": [start_seed(split, task, i) for split in SPLITS for task in _TASKS for i in (0, 1)],
        "simulator": [pin for pin in pins if pin.startswith(("hf-libero==", "robosuite==", "bddl==", "mujoco=="))],
    }


def _known(task: str) -> str:
    if task not in SUITE_OF:
        raise refuse(
            f"Unknown task {task!r} of {ID} (suites: {', '.join(SUITES)}; libero_90 is not covered, as its scenes were "
            "never tried here)",
            given=task,
            possible=_TASKS,
            todo="Use one of these.",
        )
    return task
