"""One live LIBERO environment. Imports the simulator; env.py loads this file only when it is needed."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm4vla.bench.common import chosen_cameras, must_be_of
from vlm4vla.bench.libero import protocol
from vlm4vla.bench.libero.files import must_be_whole, must_have_assets
from vlm4vla.bench.libero.render import PictureMaker  # first: it sets the OpenGL backend before mujoco loads
from vlm4vla.bench.libero.simulator import FOLDER, ControlEnv, RandomizationError
from vlm4vla.bench.libero.starts import initial_states
from vlm4vla.bench.libero.tasks import SUITE_OF
from vlm4vla.bench.libero.variants import Variant
from vlm4vla.types import (
    ActionSpec,
    CameraShift,
    CameraSpec,
    EpisodeSpec,
    Image,
    Observation,
    StartFailed,
    StepResult,
    Vector,
)

import mujoco  # isort: skip

_BUILDS = 100  # resets for one placement, until LIBERO has found room for everything
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
        must_have_assets((task,))
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

        Raises StartFailed when objects of an eval start fly off (as they do without an error under other versions of
        mujoco), and when no random placement is found; UserError for a file that has gone since the environment was
        made.
        """
        self._must_be_open()
        must_be_of(self.task, episode)
        if episode.split == "eval":
            self._place_state(episode)
        else:
            self._place_at_random(episode)
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
        return {
            "states": np.concatenate([[self.data.time], self.data.qpos, self.data.qvel]),
            "robot_states": np.concatenate([self.fingers(), self.hand()[0], np.roll(self._quaternion(), -1)]),
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

    def _place_state(self, episode: EpisodeSpec) -> None:
        """One of the benchmark's own states, settled."""
        self._build(protocol.EVAL_SEED)
        self.wrapper.set_init_state(self._states[episode.seed])
        flown, _ = self._settle()
        if flown:
            raise StartFailed(
                f"Objects fly off while the start {_named(episode)} settles, under mujoco {mujoco.__version__}: "
                f"{'; '.join(flown)}. This start cannot be run with this installation. `vlm4vla bench check libero` "
                "says whether it is sound; if it is, report this sentence."
            )

    def _place_at_random(self, episode: EpisodeSpec) -> None:
        """The first placement drawn from the episode's seed that rests, settled, and is not the task's end already."""
        for attempt in range(protocol.PLACEMENTS_TRIED):
            self._build([episode.seed & 0xFFFFFFFF, episode.seed >> 32, attempt])
            flown, farthest = self._settle()
            if not flown and farthest <= protocol.PLACEMENT_M and not self.sim._check_success():
                return
        raise StartFailed(
            f"No random placement was found for the start {_named(episode)}: in each of {protocol.PLACEMENTS_TRIED} "
            "draws something moved while it settled, or the task was solved before it began. Every run of this start "
            "meets the same draws: leave it out, with fewer episodes of this task or without the task."
        )

    def _build(self, seed: int | list[int]) -> None:
        """The scene anew, drawn from this seed.

        LIBERO's own loop around it swallows whatever is raised (``continue`` in its ``finally``) and tries for ever.
        """
        self.sim.object_property_initializers = list(self._samplers)
        np.random.seed(seed)
        for _ in range(_BUILDS):
            try:
                self.sim.reset()
                return
            except RandomizationError:  # something found no free place: the next draws of the same generator
                continue
            except Exception:
                must_be_whole(self.task)  # names a file that has gone, which LIBERO's parsers do not
                raise
        raise StartFailed(
            f"LIBERO found no place for everything in the scene of {self.task!r} in {_BUILDS} draws from the seed "
            f"{seed}. Every run of this start meets the same draws: leave it out."
        )

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
        state = np.concatenate([self.hand()[0], axis_angle(self._quaternion()), self.fingers()]).astype(np.float32)
        return Observation(self._pictures(), self._instruction, state)

    def _pictures(self) -> dict[str, Image]:
        """By camera; without any that is looked through, no OpenGL context is made."""
        if not self._shown:
            return {}
        if self._maker is None:
            self._maker = PictureMaker(self.model, self.cameras)
        return self._maker.pictures(self.model, self.data, self._shown, self._shifts)

    def _quaternion(self) -> npt.NDArray[np.float64]:
        """(4,), w first, of the hand, with the sign that follows from the joints, as robosuite observes it."""
        return np.array(self.data.xquat[self.model.body(self.sim.robots[0].robot_model.eef_name).id])


def axis_angle(quaternion: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(4,) of length 1, w first -> (3,) in radians, up to 2 pi long: robosuite's formula, which leaves the sign be.

    A quaternion and its negative are one rotation and two answers. Data sets and other tools have the simulator's own
    sign, which is continuous; a sign by rule (w >= 0, the largest component > 0) jumps while the hand turns.
    """
    w = float(np.clip(quaternion[0], -1.0, 1.0))
    sine = np.sqrt(1.0 - w * w)
    return np.zeros(3) if sine < 1e-8 else quaternion[1:] * (2.0 * np.arccos(w) / sine)


def _named(episode: EpisodeSpec) -> str:
    return f"{episode.split} {episode.index} of {episode.task!r}"
