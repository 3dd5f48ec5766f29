"""The LIBERO benchmark, its five suites, and their start lists. Needs numpy only; the simulator loads in ``make``.

Whatever a score depends on (cameras, picture size, turn, settling, step limits, success and gripper rule, starts) is
fixed by ``id``: change any of it and the id changes (protocol.py). README.md gives the reasons and the measurements.
"""

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vlm4vla.bench.common import constants, needs_simulator
from vlm4vla.bench.libero import protocol, variants
from vlm4vla.bench.libero.files import must_have_assets
from vlm4vla.bench.libero.paraphrases import paraphrase
from vlm4vla.bench.libero.protocol import ID
from vlm4vla.bench.libero.starts import start_seed
from vlm4vla.bench.libero.tasks import DEFAULT, SUITE_OF, SUITES, instruction
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

SUITES_SETTING = "VLM4VLA_LIBERO_SUITES"
"""Name of the environment variable that lists the suites whose tasks are meant, with commas; four without it."""
_DO_NOTHING = [0, 0, 0, 0, 0, 0, 1]
_POSE = ("x", "y", "z", "rx", "ry", "rz")


class Benchmark:
    """Tasks of a simulated Panda arm, seen by a fixed and a wrist camera; see :class:`vlm4vla.types.Benchmark`.

    Tasks have the benchmark's own names. ``step_limit`` is the largest; each suite has its own, see ``step_limits``.
    Two environment variables choose: which suites are listed (40 tasks without it), and another tool's protocol.
    """

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
    # End effector in the world (m; axis-angle, rad) and both fingers (m), as in the data sets.
    state_names = (*(f"ee_states.{n}" for n in _POSE), "gripper_states.left", "gripper_states.right")
    success_rule = protocol.SUCCESS_RULE
    data_format = "libero_hdf5"
    camera_moves: ClassVar[dict[str, CameraMove]] = {
        "agentview": CameraMove(metres=0.03, degrees=2.0),
        "eye_in_hand": CameraMove(metres=0.01, degrees=2.0),
    }

    def __init__(self) -> None:
        self._variant = variants.chosen()
        self._suites = _chosen_suites()
        self.id = self._variant.id
        size = self._variant.picture
        self.cameras = tuple(CameraSpec(name, size, size) for name in protocol.CAMERAS)
        self.step_limit = max(self._variant.step_limits[suite] for suite in self._suites)

    @property
    def step_limits(self) -> dict[str, int]:
        return {task: self._variant.step_limits[suite] for task, suite in SUITE_OF.items()}

    def tasks(self) -> tuple[str, ...]:
        return tuple(task for suite in self._suites for task in SUITES[suite])

    def instruction(self, task: str) -> str:
        return instruction(self._known(task))

    def paraphrase(self, task: str) -> str:
        """The instruction in other words, for the control of that name."""
        return paraphrase(self.instruction(task))

    def episodes(self, split: Split, task: str, count: int) -> tuple[EpisodeSpec, ...]:
        """The first ``count`` starts of a split; ``eval`` has 50, the others never end."""
        if split not in SPLITS:
            raise refuse(f"Unknown split {split!r}", given=split, possible=SPLITS, todo="Use one of these.")
        told = self.instruction(task)
        there = min(count, protocol.EVAL_STARTS) if split == "eval" else count
        return tuple(EpisodeSpec(self.id, split, task, i, start_seed(split, task, i), told) for i in range(there))

    def must_have_assets(self, tasks: Sequence[str]) -> None:
        """Refuse tasks with things whose files are not there: 23 of libero_90 have some that the others do not use."""
        must_have_assets([self._known(task) for task in tasks])

    def describe(self, episode: EpisodeSpec) -> dict[str, Any]:
        """The suite of a start, and what LIBERO's own files say about its task."""
        suite = SUITE_OF[self._known(episode.task)]
        return {"suite": suite, "attributes": {"bddl_file_name": f"{suite}/{episode.task}.bddl"}}

    def make(self, task: str) -> Env:
        """A live environment. Close it before the next one is made in this process.

        Raises UserError where the simulator, its assets or the OpenGL library it draws with are missing, or where the
        version of mujoco is not the pinned one.
        """
        self._known(task)
        with needs_simulator("libero", ID):
            from vlm4vla.bench.libero.sim import PandaEnv
        return PandaEnv(task, self.action_spec, self.cameras, self._variant)

    def expert(self, env: Env) -> Expert:
        """The scripted policy of the task that ``env`` (made by ``make``) runs; refused where there is none."""
        with needs_simulator("libero", ID):
            from vlm4vla.bench.libero.expert import ScriptedExpert
            from vlm4vla.bench.libero.sim import PandaEnv
        assert isinstance(env, PandaEnv)
        return ScriptedExpert(env)

    def do_nothing(self) -> Vector:
        """No motion, gripper open (as it is at every start)."""
        return np.array(_DO_NOTHING, np.float32)

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

    def _known(self, task: str) -> str:
        if task not in SUITE_OF:
            problem = f"Unknown task {task!r} of {ID} (suites: {', '.join(SUITES)})"
            raise refuse(problem, given=task, possible=self.tasks(), todo="Use one of these.")
        return task


def _chosen_suites() -> tuple[str, ...]:
    given = os.environ.get(SUITES_SETTING, "")
    suites = tuple(given.split(",")) if given else DEFAULT
    for suite in suites:
        if suite not in SUITES:
            todo = f"Set {SUITES_SETTING} to some of these with commas between them, or do not set it."
            raise refuse(f"Unknown suite {suite!r}", given=suite, possible=SUITES, todo=todo)
    return tuple(dict.fromkeys(suites))


def decides_scores() -> dict[str, Any]:
    """Everything that a score depends on, as plain data; ``protocol.DIGEST`` is the digest of it."""
    pins = (Path(__file__).parent / "requirements-no-deps.txt").read_text().split()
    pins += (Path(__file__).parent / "requirements.txt").read_text().split()
    return {
        "id": ID,
        "constants": constants(protocol),
        "action_spec": Benchmark.action_spec.to_dict(),
        "suites": SUITES,
        "variants": [asdict(variant) for variant in variants.VARIANTS.values()],
        "success_rule": Benchmark.success_rule,
        "state_names": Benchmark.state_names,
        "do_nothing": _DO_NOTHING,
        "instructions": {task: instruction(task) for task in SUITE_OF},
        "first_seeds": [start_seed(split, task, i) for split in SPLITS for task in SUITE_OF for i in (0, 1)],
        "simulator": [pin for pin in pins if pin.startswith(("hf-libero==", "robosuite==", "bddl==", "mujoco=="))],
    }
