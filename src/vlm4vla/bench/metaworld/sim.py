"""One live MetaWorld environment. Imports the simulator; env.py loads this file only when it is needed."""

import copy
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm4vla.bench.common import chosen_cameras, must_be_of
from vlm4vla.bench.metaworld.protocol import (
    CAMERA_FIELD_OF_VIEW,
    CAMERA_POSITION,
    CAMERA_QUATERNION,
    CLOSE,
    OPEN,
)
from vlm4vla.bench.metaworld.render import PictureMaker  # first: it sets the OpenGL backend before mujoco loads
from vlm4vla.bench.metaworld.tasks import MARKERS
from vlm4vla.types import ActionSpec, CameraShift, CameraSpec, EpisodeSpec, Observation, StepResult, Vector

import mujoco  # isort: skip
from metaworld.env_dict import ALL_V3_ENVIRONMENTS  # isort: skip

_live: list["SawyerEnv"] = []  # at most one


def is_live() -> bool:
    return bool(_live)


class SawyerEnv:
    """One task. Each reset builds the simulation anew from the compiled model, so nothing of the past is left in it.

    MetaWorld's own reset keeps state between episodes (bodies moved in the model, positions remembered in attributes,
    views into the simulator's memory). A new instance on a copy of the compiled model costs about 10 ms more.
    """

    def __init__(self, task: str, spec: ActionSpec, camera: CameraSpec) -> None:
        if _live:
            raise RuntimeError(
                f"An environment of task {_live[0].task!r} is still open in this process. Two renderers in one process "
                "spoil each other's pictures without an error: close it before the next is made."
            )
        self.task: str = task
        self.spec, self.camera = spec, camera
        base = ALL_V3_ENVIRONMENTS[f"{task}-v3"]
        compiled = base().model  # 0.1 to 0.2 s of XML and meshes, once

        def copied(_: Any) -> tuple[Any, Any]:
            model = copy.copy(compiled)
            return model, mujoco.MjData(model)

        self._class = type(f"Fresh{base.__name__}", (base,), {"_initialize_simulation": copied})
        self._maker: PictureMaker | None = None
        self._looks = True
        self._shifts: dict[str, CameraShift] = {}
        self._instruction = ""
        self._sim: Any = None
        self.privileged: npt.NDArray[np.float64] = np.empty(0)
        _live.append(self)

    def look_at(self, cameras: Collection[str]) -> None:
        """Pictures of these cameras only, from now on; there is but one."""
        self._looks = bool(chosen_cameras(cameras, [self.camera]))

    def move_cameras(self, shifts: Mapping[str, CameraShift]) -> None:
        """Let these cameras see from where their shift puts them, from now on; the others from where they belong."""
        chosen_cameras(shifts, [self.camera])
        self._shifts = dict(shifts)

    def reset(self, episode: EpisodeSpec, render: bool = True) -> StepResult:
        """Put the start of ``episode`` in place; its seed alone decides it."""
        self._must_be_open()
        must_be_of(self.task, episode)
        sim = self._class()
        # Goal in the observation of the expert; starts drawn from the environment's own generator, not numpy's global.
        sim._partially_observable = False
        del sim.sawyer_observation_space
        sim._freeze_rand_vec, sim.seeded_rand_vec, sim._set_task_called = False, True, True
        self._prepare_picture(sim.model)
        sim.seed(episode.seed)
        sim.reset()
        # MetaWorld moves bodies and sites of the model last: bring positions up to date before anybody looks.
        mujoco.mj_forward(sim.model, sim.data)
        sim._prev_obs = sim._get_curr_obs_combined_no_goal()
        self.privileged = sim._get_obs()
        self._sim, self._instruction = sim, episode.instruction
        return StepResult(success=False, observation=self._observe() if render else None)

    def step(self, action: Vector, render: bool) -> StepResult:
        """Execute one action of the benchmark's spec; anything outside it is refused."""
        self._must_be_open()
        assert self._sim is not None, "reset before step"
        x, y, z, gripper = self.spec.check(action)
        native = np.array([x, y, z, OPEN if gripper > 0 else CLOSE], np.float32)
        self.privileged, _, _, _, info = self._sim.step(native)
        return StepResult(success=bool(info["success"]), observation=self._observe() if render else None)

    def snapshot(self) -> npt.NDArray[np.float64]:
        """Everything that can differ between two moments, flat: joints, velocities, the hand's target, moved bodies."""
        model, data = self._sim.model, self._sim.data
        parts = (data.qpos, data.qvel, data.mocap_pos, model.body_pos, model.body_quat, model.site_pos)
        return np.concatenate([np.ravel(p) for p in (*parts, self.privileged)])

    def close(self) -> None:
        if self._maker is not None:
            self._maker.close()
            self._maker = None
        self._sim = None
        if self in _live:
            _live.remove(self)

    def _must_be_open(self) -> None:
        if self not in _live:
            raise RuntimeError(f"The environment of task {self.task!r} is closed.")

    def _prepare_picture(self, model: Any) -> None:
        """Place the camera, and hide all sites but the marker of the task; nothing here touches the physics."""
        camera = model.camera(self.camera.name)
        camera.pos, camera.quat, camera.fovy = CAMERA_POSITION, CAMERA_QUATERNION, CAMERA_FIELD_OF_VIEW
        model.site_rgba[:, 3] = 0.0
        if self.task in MARKERS:
            model.site(MARKERS[self.task]).rgba[3] = 1.0

    def _observe(self) -> Observation:
        state = self.privileged[:4].astype(np.float32)  # hand position in metres, opening 0 (closed) to 1
        if not self._looks:
            return Observation({}, self._instruction, state)
        model, data = self._sim.model, self._sim.data
        if self._maker is None:
            self._maker = PictureMaker(model, self.camera.name, self.camera.height, self.camera.width)
        picture = self._maker.picture(model, data, self._shifts.get(self.camera.name))
        return Observation({self.camera.name: picture}, self._instruction, state)
