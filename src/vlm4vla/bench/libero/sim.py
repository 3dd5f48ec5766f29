"""One live LIBERO environment. Imports the simulator; env.py loads this file only when it is needed."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm4vla.bench.common import chosen_cameras, must_be_of
from vlm4vla.bench.libero import protocol
from vlm4vla.bench.libero.render import PictureMaker  # first: it sets the OpenGL backend before mujoco loads
from vlm4vla.bench.libero.simulator import FOLDER, ControlEnv, must_have_assets
from vlm4vla.bench.libero.starts import initial_states
from vlm4vla.bench.libero.tasks import SUITE_OF
from vlm4vla.bench.libero.variants import Variant
from vlm4vla.types import (
    ActionSpec,
    CameraShift,
    CameraSpec,
    EpisodeSpec,
    Observation,
    RunFailed,
    StepResult,
    Vector,
)

import mujoco  # isort: skip

_live: list["PandaEnv"] = []  # at most one


def is_live() -> bool:
    return bool(_live)


class PandaEnv:
    """One task. Each reset builds the scene anew, from nothing but the episode.

    What a bare LIBERO environment keeps between resets, and is taken from it here: the state of numpy's global
    generator (seeded before every reset: fixtures are drawn from it and are no part of an initial state), and its list
    of joint samplers (drawers, doors), to which every reset adds its own, so that each draws more numbers than the one
    before. A start therefore is what the first episode of a fresh environment, seeded once, would have been.
    """

    def __init__(self, task: str, spec: ActionSpec, cameras: tuple[CameraSpec, ...], variant: Variant) -> None:
        if _live:
            raise RuntimeError(
                f"An environment of task {_live[0].task!r} is still open in this process. Two renderers in one process "
                "spoil each other's pictures without an error: close it before the next is made."
            )
        self.task: str = task
        self.spec, self.cameras, self._shown = spec, cameras, cameras
        self._variant = variant
        suite = SUITE_OF[task]
        must_have_assets(suite, task)
        np.random.seed(protocol.EVAL_SEED)
        self.wrapper: Any = ControlEnv(
            bddl_file_name=str(FOLDER / "bddl_files" / suite / f"{task}.bddl"),
            use_camera_obs=False,
            has_offscreen_renderer=False,
            control_freq=int(protocol.CONTROL_HZ),
            ignore_done=True,
        )
        self.sim: Any = self.wrapper.env
        self._samplers = list(self.sim.object_property_initializers)
        self._states = initial_states(FOLDER / "init_files" / suite / f"{task}.pruned_init")
        self._maker: PictureMaker | None = None
        self._shifts: dict[str, CameraShift] = {}
        self._instruction = ""
        self._ready = False
        _live.append(self)

    @property
    def model(self) -> Any:
        return self.sim.sim.model._model

    @property
    def data(self) -> Any:
        return self.sim.sim.data._data

    def look_at(self, cameras: Collection[str]) -> None:
        """Pictures of these cameras only, from now on."""
        self._shown = chosen_cameras(cameras, self.cameras)

    def move_cameras(self, shifts: Mapping[str, CameraShift]) -> None:
        """Let these cameras see from where their shift puts them, from now on; the others from where they belong."""
        chosen_cameras(shifts, self.cameras)
        self._shifts = dict(shifts)

    def reset(self, episode: EpisodeSpec, render: bool = True) -> StepResult:
        """Put the start of ``episode`` in place and let it settle; its split and seed alone decide it.

        Raises RunFailed when objects fly off, as they do without an error under other versions of mujoco.
        """
        self._must_be_open()
        must_be_of(self.task, episode)
        if episode.split == "eval":
            self._build(protocol.EVAL_SEED)
            self.wrapper.set_init_state(self._states[episode.seed])
            flown, _ = self._settle()
        else:
            for attempt in range(protocol.PLACEMENTS_TRIED):
                self._build([episode.seed & 0xFFFFFFFF, episode.seed >> 32, attempt])
                flown, farthest = self._settle()
                if not flown and farthest <= protocol.PLACEMENT_M and not self.sim._check_success():
                    break
            else:
                flown = flown or [f"in {protocol.PLACEMENTS_TRIED} placements, something always moved or was solved"]
        if flown:
            raise RunFailed(
                f"Objects fly off while the start {episode.split} {episode.index} of {self.task!r} settles: "
                f"{'; '.join(flown)}. This is mujoco {mujoco.__version__}; versions from 3.4 on do this. "
                "Run `vlm4vla bench install libero`, which brings the right one."
            )
        self._instruction, self._ready = episode.instruction, True
        return StepResult(success=False, observation=self._observe() if render else None)

    def step(self, action: Vector, render: bool) -> StepResult:
        """Execute one action of the benchmark's spec; anything outside it is refused."""
        self._must_be_open()
        assert self._ready, "reset before step"
        success = self._act(self.spec.check(action))
        return StepResult(success=success, observation=self._observe() if render else None)

    def snapshot(self) -> npt.NDArray[np.float64]:
        """Everything that can differ between two moments, flat: joints, velocities, solver's memory, fixtures."""
        parts = (self.data.qpos, self.data.qvel, self.data.qacc_warmstart, self.data.ctrl)
        fixed = (self.model.body_pos, self.model.body_quat)
        return np.concatenate([np.ravel(part) for part in (*parts, *fixed)])

    def restore(self, state: npt.NDArray[np.float64]) -> None:
        """Put joints into a state of LIBERO's files (``vectors()["states"]``). Fixtures stay where they are."""
        self._must_be_open()
        self.wrapper.set_init_state(state)

    def vectors(self) -> dict[str, npt.NDArray[np.float64]]:
        """What LIBERO's own files store of a moment: states (time, positions, velocities), robot_states (fingers, place
        and quaternion xyzw of the hand), joints of the arm (7)."""
        robot = self.sim.robots[0]
        hand = self.data.xquat[self.model.body(robot.robot_model.eef_name).id]
        return {
            "states": np.concatenate([[self.data.time], self.data.qpos, self.data.qvel]),
            "robot_states": np.concatenate([self.fingers(), self.hand()[0], np.roll(hand, -1)]),
            "obs/joint_states": np.array(self.data.qpos[robot._ref_joint_pos_indexes]),
        }

    def objects(self) -> dict[str, npt.NDArray[np.float64]]:
        """World positions (3,) of the movable objects by the simulator's names."""
        return {name: self.data.xpos[self.sim.obj_body_id[name]].copy() for name in self.sim.objects_dict}

    def hand(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Position (3,) of the point between the fingertips, and the hand's rotation matrix (3, 3), in the world."""
        robot = self.sim.robots[0]
        position = self.data.site_xpos[robot.eef_site_id].copy()
        return position, self.data.body(f"{robot.robot_model.eef_name}").xmat.reshape(3, 3).copy()

    def fingers(self) -> npt.NDArray[np.float64]:
        """Joint positions (2,) of the fingers in metres: about (0.04, -0.04) open, (0, 0) closed."""
        return np.array(self.data.qpos[self.sim.robots[0]._ref_gripper_joint_pos_indexes])

    def close(self) -> None:
        if self._maker is not None:
            self._maker.close()
            self._maker = None
        if self in _live:
            _live.remove(self)
            self.wrapper.close()

    def _must_be_open(self) -> None:
        if self not in _live:
            raise RuntimeError(f"The environment of task {self.task!r} is closed.")

    def _build(self, seed: int | list[int]) -> None:
        self.sim.object_property_initializers = list(self._samplers)
        np.random.seed(seed)
        self.wrapper.reset()

    def _settle(self) -> tuple[list[str], float]:
        """Let things come to rest: those that moved as nothing does by itself, and the longest way sideways (m)."""
        before = self.objects()
        nothing = np.append(np.zeros(6), self._variant.settle_gripper)
        for _ in range(self._variant.settle_steps):
            self.sim.step(nothing)
        ways = {name: at - before[name] for name, at in self.objects().items()}
        aside = {name: float(np.hypot(*way[:2])) for name, way in ways.items()}
        flown = [f"{name} up by {way[2]:.2f} m" for name, way in ways.items() if way[2] > protocol.SETTLE_UP_M]
        flown += [f"{name} sideways by {far:.2f} m" for name, far in aside.items() if far > protocol.SETTLE_SIDEWAYS_M]
        return flown, max(aside.values())

    def _act(self, action: Vector) -> bool:
        """The one place where the house's gripper becomes the simulator's."""
        gripper = protocol.OPEN if action[6] > 0 else protocol.CLOSE
        _, _, success, _ = self.sim.step(np.append(action[:6].astype(np.float64), gripper))
        return bool(success)

    def _observe(self) -> Observation:
        """Pictures and state as the last physics step left them (bodies where they were at its beginning, 2 ms ago).

        Bringing bodies up to date would change what the solver starts from, and so the physics.
        """
        if self._maker is None:
            self._maker = PictureMaker(self.model, self.cameras)
        position, rotation = self.hand()
        state = np.concatenate([position, axis_angle(rotation), self.fingers()]).astype(np.float32)
        pictures = self._maker.pictures(self.model, self.data, self._shown, self._shifts)
        return Observation(pictures, self._instruction, state)


def axis_angle(rotation: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(3, 3) -> (3,) in radians, by the quaternion as MuJoCo gives it (w >= 0 or not; angles up to 2 pi)."""
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, rotation.ravel())
    w = float(np.clip(quaternion[0], -1.0, 1.0))
    sine = np.sqrt(1.0 - w * w)
    return np.zeros(3) if sine < 1e-8 else quaternion[1:] * (2.0 * np.arccos(w) / sine)
