"""SIMPLER's four Bridge tasks (visual matching) and their starts. Needs numpy only; the simulator loads in ``make``.

Whatever a score depends on is fixed by ``id``: change any of it and the id changes (protocol.py). README.md gives the
reasons, the sources and the measurements.
"""

import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vlm4vla.bench.common import constants, needs_simulator
from vlm4vla.bench.simpler import protocol, starts
from vlm4vla.bench.simpler.paraphrases import PARAPHRASES
from vlm4vla.bench.simpler.protocol import ID
from vlm4vla.bench.simpler.starts import start_seed
from vlm4vla.bench.simpler.tasks import TASKS
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

SUCCESS = "VLM4VLA_SIMPLER_SUCCESS"
"""Name of the variable that chooses when success counts: ``last`` (as published) or ``ever``."""
GRIPPER = "VLM4VLA_SIMPLER_GRIPPER"
"""Name of the variable that chooses what a command to open does: ``direct``, or ``late`` as in VLM4VLA's evaluation."""
_POSE = ("x", "y", "z", "roll", "pitch", "yaw")


class Benchmark:
    """A WidowX at a table or a sink, seen by one camera; see :class:`vlm4vla.types.Benchmark`.

    ``step_limit`` is the largest; see ``step_limits``. ``typical``: about the 99th percentiles of bridge_orig.
    """

    # BridgeData's own, so that policies trained on it run here: its reader's spec has no differences to this one.
    action_spec = ActionSpec(
        dimensions=(
            *(Dimension(f"d{n}", "m", "delta", "robot base", -np.inf, np.inf) for n in _POSE[:3]),
            *(Dimension(f"d{n}", "rad", "delta", "robot base", -np.inf, np.inf) for n in _POSE[3:]),
            Dimension("gripper", "+1 open, -1 closed", "gripper", "gripper", -1.0, 1.0),
        ),
        rotation="euler_xyz",
        control_hz=protocol.CONTROL_HZ,
    )
    cameras = (CameraSpec(protocol.CAMERA, protocol.HEIGHT, protocol.WIDTH),)
    # Half as far as elsewhere: the camera is near, and beyond its edges the background photograph shows nothing.
    camera_moves: ClassVar[dict[str, CameraMove]] = {protocol.CAMERA: CameraMove(metres=0.015, degrees=1.0)}
    state_names = (*_POSE, "gripper_open")
    step_limit = max(task.steps for task in TASKS.values())
    step_limits: ClassVar[dict[str, int]] = {name: task.steps for name, task in TASKS.items()}
    typical: ClassVar[Vector] = np.array([0.03, 0.03, 0.03, 0.1, 0.1, 0.2, 1], np.float32)
    caveats = (
        "24 starts a task: one episode is 4.17 points of a task, and 1.04 points of the mean over four tasks.",
        "A separate port of SIMPLER (ManiSkill 3): not the environment that published rates come from.",
    )
    published: ClassVar[dict[str, int]] = dict.fromkeys(TASKS, protocol.EVAL_STARTS)

    def __init__(self) -> None:
        self._ever = _chosen(SUCCESS, ("last", "ever")) == "ever"
        self._late = _chosen(GRIPPER, ("direct", "late")) == "late"
        self.id = ID + "+ever" * self._ever + "+late-gripper" * self._late
        self.success_rule = protocol.EVER if self._ever else protocol.AT_END

    def tasks(self) -> tuple[str, ...]:
        return tuple(TASKS)

    def instruction(self, task: str) -> str:
        """The published sentence."""
        return TASKS[_known(task)].instruction

    def paraphrase(self, task: str) -> str:
        """The instruction in other words, for the control of that name."""
        return PARAPHRASES[_known(task)]

    def episodes(self, split: Split, task: str, count: int) -> tuple[EpisodeSpec, ...]:
        """The first ``count`` starts of a split; ``eval`` has the 24 published ones, the others never end."""
        if split not in SPLITS:
            raise refuse(f"Unknown split {split!r}", given=split, possible=SPLITS, todo="Use one of these.")
        told = self.instruction(task)
        there = min(count, protocol.EVAL_STARTS) if split == "eval" else count
        return tuple(EpisodeSpec(self.id, split, task, i, start_seed(split, task, i), told) for i in range(there))

    def describe(self, episode: EpisodeSpec) -> dict[str, Any]:
        """Where source and target are put: positions (m) and quaternions (w, x, y, z), before they settle."""
        return {name: value.tolist() for name, value in vars(starts.of(episode)).items()}

    def make(self, task: str) -> Env:
        """A live environment. Close it before the next one is made in this process.

        Raises UserError where the simulator, its assets or a Vulkan driver are missing.
        """
        _known(task)
        with needs_simulator("simpler", ID):
            from vlm4vla.bench.simpler.sim import BridgeEnv
        return BridgeEnv(task, self.action_spec, self.cameras, self._ever, self._late)

    def expert(self, env: Env) -> Expert:
        """The scripted policy, bound to ``env`` (made by ``make``)."""
        with needs_simulator("simpler", ID):
            from vlm4vla.bench.simpler.expert import ScriptedExpert
            from vlm4vla.bench.simpler.sim import BridgeEnv
        assert isinstance(env, BridgeEnv)
        return ScriptedExpert(env)

    def do_nothing(self) -> Vector:
        """No motion, gripper open (as it is at every start)."""
        return np.array([0, 0, 0, 0, 0, 0, 1], np.float32)

    def versions(self) -> dict[str, str]:
        """Versions of simulator, renderer and assets. Raises UserError where they are missing."""
        with needs_simulator("simpler", ID):
            from vlm4vla.bench.simpler import graphics, simulator
        found = {name: version(name) for name in ("mani-skill", "sapien", "torch", "numpy")}
        found["python"] = platform.python_version()
        found["assets"] = simulator.describe_assets()
        found["vulkan"] = graphics.driver()
        return found


def decides_scores() -> dict[str, Any]:
    """Everything that a score depends on, as plain data; ``protocol.DIGEST`` is the digest of it."""
    here = Path(__file__).parent
    pins = [
        pin for file in ("requirements.txt", "requirements-no-deps.txt") for pin in (here / file).read_text().split()
    ]
    names = ("mani-skill==", "sapien==", "torch==", "pytorch-kinematics==")
    return {
        "id": ID,
        "constants": constants(protocol),
        "tasks": {name: asdict(task) for name, task in TASKS.items()},
        "action_spec": Benchmark.action_spec.to_dict(),
        "cameras": [asdict(camera) for camera in Benchmark.cameras],
        "step_limits": Benchmark.step_limits,
        "state_names": Benchmark.state_names,
        "do_nothing": Benchmark().do_nothing().tolist(),
        "first_seeds": [start_seed(split, task, i) for split in SPLITS for task in TASKS for i in (0, 1)],
        "simulator": sorted(pin for pin in pins if pin.startswith(names)),
    }


def _chosen(setting: str, possible: tuple[str, str]) -> str:
    """The variable's value, or its first possible one if it is not set."""
    chosen = os.environ.get(setting, possible[0])
    if chosen not in possible:
        todo = f"Set {setting} to one of these, or do not set it."
        raise refuse(f"Unknown value {chosen!r} of {setting}", given=chosen, possible=possible, todo=todo)
    return chosen


def _known(task: str) -> str:
    if task not in TASKS:
        raise refuse(f"Unknown task {task!r} of {ID}", given=task, possible=TASKS, todo="Use one of these.")
    return task
